"""Are far shards those of this store, where no index is read?

Raw rows lie where can be calculated, and have checksums of their own. What is not known of a far shard is whose it is, and how many rows
it has: that says the stamp, of 20 bytes, behind an index of 16 bytes a chunk. 1,000 windows of 256 KB from 438 shards: 255 MB instead of
283. Whoever goes by the index, as `swath.check` and Zarr's readers do, is told of what is wrong with it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from swath.errors import DamagedStoreError
from swath.layout import STAMP_BYTES
from swath.shard import MEND, Stamp, check_stamp
from swath.storage import File

Version = tuple[Any, ...]
"""Of a file."""

# Of more, those that were met first are asked again.
_MOST_MET = 2**16


class Stamps:
    """Versions of shards whose stamp was right.

    Each step is one operation on a dict, so that threads share it without a lock, and a fork waits for none.
    """

    def __init__(self, offset: int) -> None:
        """Of stamps that lie at ``offset``."""
        self._offset = offset
        self._met: dict[tuple[Version, int], None] = {}
        self._asked: dict[tuple[int, int], Future[Version]] = {}

    def has_met(self, file: File, shard: int) -> bool:
        """Whether this version of the file has been met as this shard."""
        file.recall()
        return (file.version, shard) in self._met

    def check(self, file: File, stamp: Stamp) -> Version:
        """The version of the file whose stamp this is, read unless it has been met before.

        Raises
        ------
        DamagedStoreError
            It is another shard, or has fewer rows.
        """
        if not self.has_met(file, stamp.shard):
            encoded = bytearray(STAMP_BYTES)
            got = file.read_into([memoryview(encoded)], STAMP_BYTES, self._offset)
            if got < STAMP_BYTES:
                raise DamagedStoreError(f"{file.path} ends at byte {file.size}, before its first chunk. {MEND}")
            check_stamp(file, bytes(encoded), stamp)
            while len(self._met) >= _MOST_MET:
                self._met.pop(next(iter(tuple(self._met))), None)
            self._met[file.version, stamp.shard] = None
        return file.version

    def asking(self, shard: int, ask: Callable[[], Version]) -> Future[Version]:
        """What ``ask`` gives, which a thread of its own carries out meanwhile, one for all who want this shard's."""
        mine: Future[Version] = Future()
        key = os.getpid(), shard  # the thread that would answer is in no forked child
        future = self._asked.setdefault(key, mine)
        if future is mine:

            def run() -> None:
                try:
                    mine.set_result(ask())
                except BaseException as error:
                    mine.set_exception(error)
                finally:
                    del self._asked[key]

            threading.Thread(target=run, daemon=True, name="swath-stamp").start()
        return future
