"""A local folder as zarr-python reads it for swath: files, and nothing outside of it, whatever the files in it say."""

from __future__ import annotations

from collections.abc import Iterable

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from swath.storage.regular import beneath, check_regular


class BeneathStore(LocalStore):
    """zarr-python's own store, without keys and links that lead out of the folder, and what is no file. It is only read."""

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """What lies at a key; None where there is nothing."""
        check_regular(beneath(self.root, key))
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """What lies at a key; None where there is nothing."""
        check_regular(beneath(self.root, key))
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Ranges of what lies at some keys."""
        wanted = list(key_ranges)
        for key, _ in wanted:
            check_regular(beneath(self.root, key))
        return await super().get_partial_values(prototype, wanted)
