"""One batch in shared memory: who makes it hands on a handle, and others attach to it without a copy."""

from __future__ import annotations

import os
import secrets
import weakref
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import OptionError, SharingError
from swath.sharing.form import Form, check_dtype, check_form, form_of
from swath.sharing.memory import create, map_sealed, open_of_process

_MAGIC = b"swath batch 1\0\0\0"
_TOKEN_BYTES = 16
_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class BatchHandle:
    """Where a shared batch is. It pickles to some hundred bytes, whatever the size of the batch."""

    pid: int
    """The process that made it."""
    descriptor: int
    """Under which number it has the memory open."""
    token: bytes = field(repr=False)
    """What stands in the memory, so that no other is taken for it."""
    form: Form


class SharedBatch:
    """A batch in memory that other processes attach to; `share`, `empty` and `attach` make it. ``with`` closes it."""

    def __init__(self, handle: BatchHandle, memory: NDArray[np.uint8], descriptor: int | None = None) -> None:
        self._handle = handle
        self._batch: Any = handle.form.views(memory[_HEAD_BYTES:])
        self._descriptor = None if descriptor is None else weakref.finalize(self, os.close, descriptor)
        """That of whoever made it, through which others find it."""

    @classmethod
    def empty(cls, shape: tuple[int, ...] | int, dtype: DTypeLike) -> SharedBatch:
        """An array to be filled, as by ``a.gather(starts, out=shared.array)``. Its values are zeros.

        Parameters
        ----------
        shape
            Its lengths along each axis, or its one length.
        dtype
            Any without pointers.

        Raises
        ------
        OptionError
            There is no such array, or it would hold pointers.
        MemoryLimitError
            There is not so much memory.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.arange(1000).reshape(100, 10), tmp / "empty.zarr", window=4)
        >>> with swath.SharedBatch.empty((2, 4, 10), a.dtype) as shared:
        ...     _ = a.gather([90, 7], out=shared.array)
        ...     print(shared.array[:, 0, 0])
        [900  70]
        """
        try:
            none = np.empty(0, dtype)
            sizes = np.broadcast_to(0, shape).shape + none.shape[1:]
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"There is no array of shape {shape!r} and dtype {dtype!r} ({error}). Give others."
            ) from None
        check_dtype(none.dtype)
        return _create(Form(None, (none.dtype,), (sizes,)))

    def __repr__(self) -> str:
        form = self._handle.form
        each = zip(form.names or [""], form.shapes, form.dtypes)
        told = ", ".join(f"{name}{': ' * bool(name)}{shape} {dtype}" for name, shape, dtype in each)
        return f"<swath.SharedBatch {told}: {'closed' if self._batch is None else f'of process {self._handle.pid}'}>"

    @property
    def handle(self) -> BatchHandle:
        """What others need to attach, while the process that made it has it open."""
        return self._handle

    @property
    def array(self) -> NDArray[Any]:
        """The array. Only who made it can write to it.

        Raises
        ------
        SharingError
            It was closed.
        OptionError
            There are several, by name.
        """
        if isinstance(self._open(), dict):
            raise OptionError(f"The batch has arrays {sorted(self._batch)}. Use arrays[name].")
        array: NDArray[Any] = self._batch
        return array

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name.

        Raises
        ------
        SharingError
            It was closed.
        OptionError
            There is one, without a name.
        """
        if not isinstance(self._open(), dict):
            raise OptionError("The batch is one array without a name. Use array.")
        return dict(self._batch)

    def _open(self) -> Any:
        if self._batch is None:
            raise SharingError("This batch was closed. Attach to it again, or share it again.")
        return self._batch

    def __reduce__(self) -> Any:
        raise SharingError(
            "A shared batch does not travel itself: that would be a copy. Send shared.handle, and swath.attach to it there."
        )

    def close(self) -> None:
        """Let go of it. The memory is freed once nobody holds one of its arrays, here or in another process."""
        self._batch = None
        if self._descriptor is not None:
            self._descriptor()  # once, however often

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def share(batch: Any) -> SharedBatch:
    """Copy a batch into memory that other processes can attach to.

    Parameters
    ----------
    batch
        A numpy array, or several by name, such as `RowArray.gather` and `RowGroup.gather` return.

    Raises
    ------
    OptionError
        It is something else, or holds pointers (dtype ``object``).
    MemoryLimitError
        There is not so much memory.

    Examples
    --------
    >>> import swath, numpy as np
    >>> with swath.share(np.arange(6.0).reshape(2, 3)) as shared:
    ...     with swath.attach(shared.handle) as attached:  # in any process of this machine
    ...         print(attached.array[1], attached.array.flags.writeable)
    [3. 4. 5.] False
    """
    form = form_of(batch)
    shared = _create(form)
    if form.names is None:
        shared.array[...] = batch
    else:
        for name, array in shared.arrays.items():
            array[...] = batch[name]
    return shared


def attach(handle: BatchHandle) -> SharedBatch:
    """A batch that another process shared, or this one: the same memory, to be read only.

    It stays as it is when the process that made it closes it, or ends.

    Parameters
    ----------
    handle
        That of the batch, which must still be open where it was made.

    Raises
    ------
    OptionError
        That is no handle.
    SharingError
        The batch is gone, or cannot be seen from here.

    Examples
    --------
    >>> import swath, numpy as np
    >>> with swath.share({"X": np.zeros((2, 3)), "y": np.arange(2)}) as shared:
    ...     attached = swath.attach(shared.handle)  # in any process of this machine
    >>> attached.arrays["y"].tolist()
    [0, 1]
    """
    if not isinstance(handle, BatchHandle):
        raise OptionError(
            f"A {type(handle).__name__} is no handle. Give shared.handle, where shared is what swath.share returned."
        )
    try:
        _check_handle(handle)
    except ValueError as error:
        raise OptionError(f"The handle was changed on its way: {error}. Send shared.handle as it is.") from None
    n_bytes = _HEAD_BYTES + handle.form.n_bytes
    descriptor = open_of_process(handle.pid, handle.descriptor)
    try:
        memory = map_sealed(descriptor, n_bytes)
    finally:
        os.close(descriptor)
    if bytes(memory[: len(_MAGIC) + _TOKEN_BYTES]) != _MAGIC + handle.token:
        raise SharingError(
            f"Process {handle.pid} has another batch under {handle.descriptor} now: the one of this handle was closed. "
            "Keep it open there until all have attached."
        )
    return SharedBatch(handle, memory)


def _check_handle(handle: BatchHandle) -> None:
    """Refuse what came changed: bytes would be taken for a form.

    Raises
    ------
    ValueError
    """
    check_form(handle.form)
    if type(handle.pid) is not int or type(handle.descriptor) is not int or not isinstance(handle.token, bytes):
        raise ValueError(f"{handle!r:.200} names no memory")


def _create(form: Form) -> SharedBatch:
    descriptor, memory = create(_HEAD_BYTES + form.n_bytes)
    token = secrets.token_bytes(_TOKEN_BYTES)
    head = _MAGIC + token
    memory[: len(head)] = np.frombuffer(head, np.uint8)
    return SharedBatch(BatchHandle(os.getpid(), descriptor, token, form), memory, descriptor)
