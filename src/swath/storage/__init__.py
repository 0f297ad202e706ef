"""Where bytes live."""

from swath.storage.local import LocalFile, LocalFolder

__all__ = ["LocalFile", "LocalFolder"]
