"""Keep the host of a virtual machine out of the figures: what it has cached, and when it gives memory.

What is dropped from the page cache here may still be in the memory of the host, below the virtual disk: of windows that another run had
just read, a gather came at 1.4 to 2.0 GB/s instead of 0.5 to 0.9. Nobody can drop that cache from here, but other bytes
take its room (`flood`).

And memory that nobody uses may go back to the host. To touch 2.56 GB of it took 6 s then, and 0.3 s when another process had
just freed as much; a second later it was 1.7 s. A run would tell how long the one before it took, and how much memory that had. So
memory is held until the very moment at which a run begins (`HeldMemory`).

Where there is no host, both cost a few seconds and change nothing.
"""

import mmap
import os

import numpy as np

from swath.measure import files_of

# After 8 GB of other bytes: 0.83, 0.53 and 0.91 GB/s; after 16 GB 0.61, 0.58 and 0.62.
_FLOOD_BYTES = 8_000_000_000
_READ_BYTES = 2**24


def flood(other: str) -> None:
    """Read a file, or all files of a store, that nobody measures next, past the page cache."""
    left = _FLOOD_BYTES
    buffer = mmap.mmap(-1, _READ_BYTES)  # direct reads want aligned memory: pages of its own
    for file in files_of(other):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
        except OSError:  # a file system in memory has no direct reads, and no host below it
            return
        try:
            offset = 0
            while left > 0 and (got := os.preadv(descriptor, [buffer], offset)):
                offset, left = offset + got, left - got
                if got < _READ_BYTES:
                    break
        finally:
            os.close(descriptor)


class HeldMemory:
    """Memory that the host has given, held back for the run that begins next."""

    def __init__(self) -> None:
        self._held = np.empty(0)

    def take(self, nbytes: int) -> None:
        """Hold at least so many bytes, each page touched."""
        self.give()
        self._held = np.ones(-(-nbytes // 8))

    def give(self) -> None:
        """Free them: whoever touches memory in this moment gets these."""
        self._held = np.empty(0)
