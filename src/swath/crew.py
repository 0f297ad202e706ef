"""How many threads shall carry out a plan?

A second thread saves time while the first copies, decodes or waits. But Python's own steps are made by one thread at a time, and those who
want to take turns pay for it at each call that lets others run, more on some machines than on others. So the number is calculated
(`threads_for`), and tried where decoding takes long enough to find out (`run_best`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from swath.plan import Plan

# Below this a second thread costs more to start than it saves.
BYTES_FOR_THREADS = 2**20

# Of what is in memory a second thread saves copying and decoding; Python's own steps it makes slower, since the two hand the interpreter's
# lock round at each call of the system. So it gains where the former takes three times as long as the latter, and not over in a
# moment. Two threads against one, on two hyperthreads: 500 windows of 256 KB in 120 shards 0.84x as fast, 1,000 1.26x, 4,000 1.43x;
# 4,000 of 16 KB 0.78x; 32 MB in windows of 4 MB 0.97x, 128 MB 1.3x; zstd 0.8 to 0.9x where it takes less than 10 ms, then 1.3 to 1.6x.
# Decoded together, on a Xeon: 100 windows of 256 KB, lz4 in chunks of 64 KB 0.83x, 300 1.2x, 1,000 1.6x.
_COPIES_A_PYTHON = 3
_LEAST_COPY_SECONDS = 8e-3

# What one thread takes: bytes of rows a second, copied or decoded; and Python to open a shard, for a read, and for a chunk to be decoded.
_COPIED, _DECODED, _DECODED_LZ4 = 8e9, 1.2e9, 5e9
_SHARD_SECONDS, _READ_SECONDS, _CHUNK_SECONDS = 15e-6, 10e-6, 15e-6
# For those that are decoded together.
_JOINED_READ_SECONDS, _JOINED_CHUNK_SECONDS = 5e-6, 1.5e-6

# Chunks that one call decodes are so only in threads that are not the main one (`swath.landing`), and a thread takes up to 0.5 ms to start.
# One thread, not the main one, against the main one: 100 windows of 1 KB in chunks of 16 KB 1.5x as fast, 1,000 3.5x; 300 of 256 KB in
# chunks of 64 KB 1.1x, of 256 KB 0.97x.
_CHUNKS_FOR_A_THREAD = 100
_SMALL_CHUNK_BYTES = 2**16

# The number is tried where what is decoded would take one thread at least so long, of which a trial is a twentieth, and where a machine
# that is so many times better or worse than that of these figures would do better with another number.
_UNCLEAR = 3
_LEAST_TRIED_SECONDS = 0.3
_TRIAL_SECONDS = 0.015

# More threads go on where they are faster by this much: rates of so short a time scatter.
_FASTER = 1.05


def threads_for(plan: Plan, near: bool) -> int:
    """How many threads: a few for bytes in memory, or that a disk brings there meanwhile (``near``), many that wait for a disk otherwise.

    More threads than cores slow down what is in memory (7.3 GB/s with 2 threads, 3.7 with 16, on 2 cores), and fewer
    than 16 slow down a disk that is read past the page cache (1.3 GB/s with 2, 2.2 with 16).
    """
    if plan.reach.is_remote:
        return plan.threads
    if plan.bytes_read < BYTES_FOR_THREADS:
        return 1
    if not near:
        return plan.threads
    python, copies = _seconds(plan)
    gains = copies > max(_COPIES_A_PYTHON * python, _LEAST_COPY_SECONDS)
    return min(plan.threads, local_cores()) if gains else 1


def _seconds(plan: Plan) -> tuple[float, float]:
    """What one thread takes of bytes in memory, about: Python's own steps, and to copy or decode."""
    python = plan.shards.size * _SHARD_SECONDS
    python += plan.first_chunk.size * (_JOINED_READ_SECONDS if plan.joins else _READ_SECONDS)
    if not plan.bytes_decoded:
        return python, plan.bytes_read / _COPIED
    python += plan.chunks * len(plan.tiles) * (_JOINED_CHUNK_SECONDS if plan.joins else _CHUNK_SECONDS)
    return python, plan.bytes_decoded / (_DECODED_LZ4 if plan.layout.codec == "lz4" else _DECODED)


def is_worth_a_thread(plan: Plan) -> bool:
    """Whether one thread should not be the one that calls."""
    return plan.joins and plan.layout.chunk_bytes <= _SMALL_CHUNK_BYTES and plan.chunks >= _CHUNKS_FOR_A_THREAD


def is_worth_a_trial(plan: Plan) -> bool:
    """Whether it is not clear how many threads are best for what is in memory, and it takes long enough to find out."""
    python, copies = _seconds(plan)
    unclear = copies / _UNCLEAR < _COPIES_A_PYTHON * python < copies * _UNCLEAR
    most = min(plan.threads, local_cores())
    return plan.bytes_decoded > 0 and unclear and most > 1 and copies > _LEAST_TRIED_SECONDS


def run_best(run: Callable[[int, float], int], most: int) -> None:
    """Run to the end by as many threads, of 1, 2, 4, ... ``most``, as are fastest.

    200 to 6,000 windows of 256 KB in chunks of as much, by two threads against one, on 2 virtual cores, chunk by chunk: lz4 0.6x on a Xeon,
    and 1.3x on an EPYC; zstd 1.2 to 1.5x, and 1.3 to 1.6x.

    Parameters
    ----------
    run
        Has so many threads work for so many seconds, or until all is done, and returns how much they have done.
    most
        Threads.
    """
    chosen, best = 1, 0.0
    for n in sorted({*(2**k for k in range(most.bit_length())), most}):
        begun = time.perf_counter()
        rate = run(n, _TRIAL_SECONDS) / (time.perf_counter() - begun)
        if rate < _FASTER * best:
            break
        chosen, best = n, rate
    run(chosen, math.inf)


def local_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
