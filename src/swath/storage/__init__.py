"""Where bytes live."""

from swath.storage.local import Buffer, LocalFile, LocalFolder, Scratch

__all__ = ["Buffer", "LocalFile", "LocalFolder", "Scratch"]
