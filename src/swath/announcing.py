"""What is the disk told of, before it is read?

Random windows lie where no system reads ahead by itself. So it is told of what comes (`posix_fadvise`, ``WILLNEED``), and fetches it while
others are read and checked.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from swath.plan import Plan
from swath.rows import Access, Rows
from swath.storage import Scratch

# So few threads read then, as of what is in memory: 10,000 windows of 16 KB came cold at 26,000 a second by one thread that told, 15,000
# by 8, 14,000 by 32, and at 14,000 by 32 that did not tell, whose 8,800 reads switched between threads 78,000 times; lz4 (1,000 of
# 128 KB) at 7,500, 4,800, 5,600 and 5,700. Of bare reads 16 ahead were a tenth slower than 32 and 64.
_READS_AHEAD, _BYTES_AHEAD = 64, 2**24

# After these waits, in seconds, one read after another is looked for: whether a file system listens shows by the first that has come.
_LOOKS = (0.0, 0.001, 0.004, 0.02, 0.05)


class Announcer:
    """Tells the disk of reads of a plan, in one thread."""

    def __init__(self, rows: Rows, plan: Plan, access: Access) -> None:
        self._rows = rows
        self._plan = plan
        self._access = access
        self._scratch = Scratch()

    def announce(self, first: int, stop: int) -> None:
        """Let the disk fetch what the reads ``[first, stop)`` of one shard will read."""
        plan, layout, window = self._plan, self._plan.layout, self._plan.window
        shard = int(plan.first_chunk[first]) // layout.shard_chunks
        # What is wrong with the shard whoever reads it will tell.
        with contextlib.suppress(OSError), self._rows.reader(shard, self._access, self._scratch) as reader:
            for a, b, lo, hi in plan.each(first, stop):
                row0, row1 = int(plan.starts[lo]), int(plan.starts[hi - 1]) + window
                reader.announce(a, b, max(a * layout.chunk_rows, row0), min(b * layout.chunk_rows, row1))


def lead(plan: Plan, tasks: int) -> int:
    """How many tasks the disk is told of before the first is carried out; then it is told of one for each."""
    share = min(_READS_AHEAD / plan.first_chunk.size, _BYTES_AHEAD / max(1, plan.bytes_read))
    return max(1, round(share * tasks))


def comes(rows: Rows, plan: Plan, access: Access) -> bool:
    """Whether the disk brings what it is told of: a file system may not listen, and then wants many threads that wait.

    Each look is at another read, and none at the first, which was looked up before: Linux fetches what it is asked for without waiting.
    """
    layout = plan.layout
    chunks = plan.first_chunk[1 : 1 + len(_LOOKS)].tolist()
    with contextlib.suppress(OSError):  # whoever reads it will tell what is wrong
        for chunk in chunks:  # of a read without checksums the first row may not be wanted
            with rows.reader(chunk // layout.shard_chunks, replace(access, tiles=(0,)), Scratch()) as reader:
                reader.announce(chunk, chunk + 1, chunk * layout.chunk_rows, chunk * layout.chunk_rows + 1)
        for wait, chunk in zip(_LOOKS, chunks):
            time.sleep(wait)
            if rows.is_cached(chunk):
                return True
        return False
    return True
