"""Where bytes live."""

from swath.storage.local import MOST_WRITE_BYTES, Buffer, LocalFile, LocalFolder, Scratch
from swath.storage.staging import staged, writing_to

__all__ = ["MOST_WRITE_BYTES", "Buffer", "LocalFile", "LocalFolder", "Scratch", "staged", "writing_to"]
