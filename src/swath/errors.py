"""The errors of swath, grouped by what a caller would do about them.

::

    SwathError
    ├── RequestError            change the arguments of the call
    │   ├── StartsError             (TypeError, ValueError)  not a 1-d list of integers
    │   ├── WindowError             (ValueError)             no such window in this array
    │   ├── WindowOutOfBoundsError  (IndexError)             a window leaves the array
    │   ├── ColumnsError            (IndexError)             no such columns
    │   ├── OutError                (ValueError)             ``out`` cannot take the batch
    │   └── OptionError             (ValueError)             any other argument
    ├── MemoryLimitError        (MemoryError)    ask for less, or give more memory
    ├── DiskFullError           (OSError)        make room, then run the same call again
    ├── SourceError             (ValueError)     mend the source
    │   └── SourceNotFoundError     (FileNotFoundError)
    ├── TargetError             (OSError)        choose another place to write to
    ├── LayoutError             (ValueError)     choose another dtype, chunk or shard
    ├── WorkersLostError        (RuntimeError)   look at the workers of the cluster
    ├── SharingError            (ConnectionError)  look at the process that shares
    └── StoreError              look at the store
        ├── StoreNotFoundError      (FileNotFoundError)
        ├── StoreExistsError        (FileExistsError)
        ├── StoreBusyError          (BlockingIOError)  another process is writing it
        ├── IncompleteStoreError    (OSError)          its ingest has not finished
        ├── FormatError             (ValueError)       not a store this version reads
        ├── StoreChangedError       (OSError)          replaced since it was opened
        ├── StoreAccessError        (PermissionError)  a server refuses it
        ├── StoreUnreachableError   (ConnectionError)  a server gives no sound answer
        └── DamagedStoreError       (OSError)          bytes are missing or wrong

Each is also the builtin that a caller would already catch. A message has two sentences: what is
wrong, with the values in it, and what to do.
"""


class SwathError(Exception):
    """The base of every error that swath raises on purpose."""


class RequestError(SwathError):
    """The call itself is wrong: other arguments would work."""


class StartsError(RequestError, TypeError, ValueError):
    """``starts`` is not a one-dimensional list of integers."""


class WindowError(RequestError, ValueError):
    """``window`` is not between 1 and the number of rows."""


class WindowOutOfBoundsError(RequestError, IndexError):
    """A window would begin before row 0 or end after the last row."""


class ColumnsError(RequestError, IndexError):
    """``columns`` names columns that a row does not have."""


class OutError(RequestError, ValueError):
    """``out`` has the wrong shape or dtype, or cannot be written."""


class OptionError(RequestError, ValueError):
    """An argument has a value that means nothing here."""


class MemoryLimitError(SwathError, MemoryError):
    """The call was refused before it read anything, since it would pass its memory limit."""


class DiskFullError(SwathError, OSError):
    """The disk cannot take what is to be written; what is committed is untouched."""


class SourceError(SwathError, ValueError):
    """What is to be ingested cannot be read as an array of rows."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The file or dataset to be ingested does not exist."""


class TargetError(SwathError, OSError):
    """The place that an export shall go to cannot take it; what was there is untouched."""


class LayoutError(SwathError, ValueError):
    """These rows cannot be stored, or not in chunks and shards of this size."""


class WorkersLostError(SwathError, RuntimeError):
    """A task has ended worker after worker of a dask cluster, or the cluster cannot be reached any more."""


class SharingError(SwathError, ConnectionError):
    """What another process shares cannot be had, or not any more."""


class StoreError(SwathError):
    """Something about the store, rather than about the call."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at this place."""


class StoreExistsError(StoreError, FileExistsError):
    """There is something at this place already, and it is not to be overwritten."""


class StoreBusyError(StoreError, BlockingIOError):
    """Another process is writing this store."""


class IncompleteStoreError(StoreError, OSError):
    """An ingest into this place began and has not been finished."""


class FormatError(StoreError, ValueError):
    """The metadata describe nothing that this version of swath can read."""


class StoreChangedError(StoreError, OSError):
    """The store was replaced by another since it was opened; no data were returned."""


class StoreAccessError(StoreError, PermissionError):
    """A server refuses what is asked of it: credentials are missing or wrong, or it does not know how."""


class StoreUnreachableError(StoreError, ConnectionError):
    """A server gave no sound answer, however often it was asked."""


class DamagedStoreError(StoreError, OSError):
    """A shard is missing or short, or a checksum does not match; no data were returned."""
