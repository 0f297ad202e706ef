"""Where bytes live."""

from swath.storage.connection import Seen, VersionError
from swath.storage.folder import File, Folder
from swath.storage.gate import Gate, away, begun, briefly, run_threads
from swath.storage.local import MOST_WRITE_BYTES, Buffer, LocalFile, LocalFolder, Scratch
from swath.storage.objects import ObjectFolder, Turn
from swath.storage.places import is_remote, local_path, place_of, without_credentials
from swath.storage.staging import staged, take_room, writing_to
from swath.storage.zarr_store import as_zarr_store

__all__ = [
    "MOST_WRITE_BYTES",
    "Buffer",
    "File",
    "Folder",
    "Gate",
    "LocalFile",
    "LocalFolder",
    "ObjectFolder",
    "Scratch",
    "Seen",
    "Turn",
    "VersionError",
    "as_zarr_store",
    "away",
    "begun",
    "briefly",
    "is_remote",
    "local_path",
    "place_of",
    "run_threads",
    "staged",
    "take_room",
    "without_credentials",
    "writing_to",
]
