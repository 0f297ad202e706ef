"""Where bytes live."""

from swath.storage.local import Buffer, LocalFile, LocalFolder, Scratch
from swath.storage.staging import MOST_WRITE_BYTES, staged, writing_to

__all__ = ["MOST_WRITE_BYTES", "Buffer", "LocalFile", "LocalFolder", "Scratch", "staged", "writing_to"]
