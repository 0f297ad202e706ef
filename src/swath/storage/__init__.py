"""Where bytes live."""

from swath.storage.local import Buffer, LocalFile, LocalFolder, Scratch
from swath.storage.staged import staged, writing_to

__all__ = ["Buffer", "LocalFile", "LocalFolder", "Scratch", "staged", "writing_to"]
