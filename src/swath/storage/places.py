"""Which folder does a path, or a URL, name?"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from swath.errors import OptionError
from swath.storage.cache import Cache
from swath.storage.connection import Connection
from swath.storage.folder import Folder
from swath.storage.local import LocalFolder
from swath.storage.objects import ObjectFolder
from swath.storage.zarr_store import is_zarr_store, zarr_store_folder

# Those that obstore knows.
_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl", "http", "https")

# Of a cache where nobody has said.
_CACHE_BYTES = 10 * 2**30


def local_path(url: str | os.PathLike[str]) -> Path:
    """The folder or file that ``url`` names.

    Raises
    ------
    OptionError
        It is no path.
    """
    if not isinstance(url, (str, os.PathLike)):
        raise OptionError(
            f"The place is a {type(url).__name__}, which is no local path. Give one, or a URL of an object store."
        )
    if "://" in str(url) or "\0" in str(url) or not str(url):
        place = without_credentials(str(url))
        if is_remote(url):
            raise OptionError(
                f"The place is {place!r}, which is no local path, and only stores lie elsewhere. Give one."
            )
        raise OptionError(
            f"The place is {place!r}, which is no local path. Give one; a store may also lie at a URL that begins with s3://, "
            "gs://, az:// or https:// (MinIO and others like it: s3://, and their endpoint in storage_options)."
        )
    if (slip := re.match("([a-z0-9]+):/(?!/)", str(url))) and slip[1] in _SCHEMES:
        raise OptionError(
            f"The place is {str(url)!r}, with one slash. Give {slip[1]}://... as text: a Path loses a slash."
        )
    path = Path(os.path.abspath(Path(url).expanduser()))
    # A rename would replace a link, and not the folder that it stands for.
    return path.resolve() if path.is_symlink() else path


def without_credentials(url: str) -> str:
    """To be shown: without what stands before an ``@``, or after a ``?``."""
    return re.sub("//[^/]*@|[?].*", "//...", url)


def is_remote(url: object) -> bool:
    """Whether ``url`` is a text that names a place in an object store, or behind one."""
    return isinstance(url, str) and "://" in url and url.partition("://")[0].lower() in _SCHEMES


def place_of(
    url: Any,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> Folder:
    """The folder that ``url`` names: a path, ``s3://``, ``gs://``, ``az://``, or ``http(s)://``, which can only be read.

    A store of zarr-python, or a mapping of fsspec, is a folder that can only be read too.

    Raises
    ------
    OptionError
        It is no such place, or ``storage_options`` or a ``cache`` mean nothing there.
    """
    if cache is None and cache_limit is not None:
        raise OptionError(
            f"cache_limit is {cache_limit!r}, but there is no cache. Give the path of a folder as cache, too."
        )
    if cache is not None and not is_remote(url):
        raise OptionError(
            f"cache is {str(cache)!r}, which is for URLs of object stores: what is read by a path is near, and a store of "
            "zarr-python does not tell versions. Leave it out."
        )
    if is_zarr_store(url):
        if storage_options:
            raise OptionError("A store of zarr-python has options of its own. Leave out storage_options.")
        return zarr_store_folder(url)
    if not is_remote(url):
        folder = LocalFolder(local_path(url))
        if storage_options:
            raise OptionError(f"{folder.url} is a local path, for which storage_options mean nothing. Leave them out.")
        return folder
    assert isinstance(url, str)
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise OptionError(f"storage_options is a {type(storage_options).__name__}. Give a mapping of names to values.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise OptionError(f"The URL is none ({error}). Give one such as 's3://bucket/folder'.") from None
    # In abfss://container@account.dfs.core.windows.net the container comes first.
    user = None if parts.scheme in ("abfs", "abfss") else parts.username
    if parts.query or parts.fragment or user or parts.password:
        raise OptionError(
            f"The URL {parts.scheme}://{parts.hostname}{parts.path} has more than a place. "
            "Give credentials in the environment, or in storage_options."
        )
    path = unquote(parts.path) if parts.scheme.startswith("http") else parts.path
    if not parts.netloc or "\0" in parts.netloc + path or any(part in (".", "..") for part in path.split("/")):
        raise OptionError(f"{url!r} names no place in a store. Give a URL such as 's3://bucket/folder'.")
    # The store begins one folder above, where the metadata of a group may be.
    folder_above, _, name = path.strip("/").rpartition("/")
    root = f"{parts.scheme}://{parts.netloc}" + (f"/{folder_above}" if folder_above else "")
    connection = Connection.to(root, storage_options)
    return ObjectFolder(
        connection,
        name,
        None if cache is None else Cache.at(cache, _CACHE_BYTES if cache_limit is None else cache_limit),
    )
