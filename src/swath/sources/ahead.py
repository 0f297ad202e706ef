"""Who parses blocks of text, ahead of their reader?

Child processes: each is told of a block through a socket, reads and parses it, and leaves the rows in memory that it
shares with this process. That memory has no name (`memfd_create`), so it is gone with the last of them, however they end.
A child that loses its socket ends.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError, SwathError
from swath.sources.children import end_child, how_it_ended, start_child
from swath.sources.lines import Block, BlockReader
from swath.sources.parse import parse_rows
from swath.sources.table import LineError, Table

_SLOTS = 2
"""Blocks that a child may have done or be at: it parses one while its reader takes another."""

# What a child holds of its own: the interpreter, numpy and pyarrow, as private pages.
_CHILD_BYTES = 72 * 2**20

# What parsing takes, in bytes of a byte of text: its shortest fields are values of eight bytes, in pyarrow and in numpy.
_PARSING = 16

_PROGRAM = "from swath.sources.ahead import serve; serve(*map(int, sys.argv[1:]))"


def parse_bytes(text_bytes: int) -> int:
    """The most memory that parsing a block takes, without its rows."""
    return _PARSING * text_bytes


def child_bytes(text_bytes: int, slot_bytes: int) -> int:
    """The most memory that one child takes, with what it shares."""
    return _CHILD_BYTES + parse_bytes(text_bytes) + _SLOTS * slot_bytes


def parse_block(reader: BlockReader, block: Block, table: Table, rows: NDArray[np.uint8]) -> None:
    """Read a block, and write its rows.

    Raises
    ------
    SourceError
        It cannot be read, or a line is no row.
    """
    text = reader.read(block)
    try:
        parse_rows(text, block.delimiter, table, rows)
    except LineError as error:
        raise SourceError(f"{error.where(block.path, block.line)} Mend the line, or give another dtype.") from None


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    memory: NDArray[np.uint8]
    """(slots, bytes)"""
    free: list[int]

    @classmethod
    def start(cls, table: Table, slot_bytes: int) -> _Child:
        memory = os.memfd_create("swath-rows")
        try:
            os.ftruncate(memory, _SLOTS * slot_bytes)
            shared = mmap.mmap(memory, _SLOTS * slot_bytes)
            process, ours = start_child(_PROGRAM, memory, stderr=None)  # what is wrong there is to be seen
        finally:
            os.close(memory)
        connection = Connection(ours.detach())
        child = cls(process, connection, np.frombuffer(shared, np.uint8).reshape(_SLOTS, -1), list(range(_SLOTS)))
        child.connection.send((table, slot_bytes))
        return child


@dataclass(slots=True, weakref_slot=True)
class Ahead:
    """Blocks parsed by children, handed out in order, as many ahead as they have room for."""

    table: Table
    blocks: Sequence[Block]
    _children: list[_Child]
    _next: int = 0
    """The block that is handed out next, if nobody jumps."""
    _asked: int = 0
    """The block that a child is asked for next."""
    _flight: deque[tuple[int, _Child, int]] = field(default_factory=deque)
    """Blocks that were asked for, in order; who parses each, and into which slot."""
    _held: tuple[_Child, int] | None = None
    """The slot that was handed out last."""

    @classmethod
    def start(cls, table: Table, blocks: Sequence[Block], n: int, slot_bytes: int) -> Ahead:
        """Start ``n`` children, for blocks whose rows have at most ``slot_bytes``.

        Raises
        ------
        SourceError
            The system gives no more processes, or memory.
        """
        children: list[_Child] = []
        ahead = cls(table, blocks, children)
        weakref.finalize(ahead, _end, children, os.getpid())
        try:
            for _ in range(n):
                children.append(_Child.start(table, slot_bytes))  # noqa: PERF401 - those that were started must be ended
        except OSError as error:
            ahead.close()
            raise SourceError(
                f"No process could be started to parse text ({error}). Give a smaller memory_limit."
            ) from error
        return ahead

    def rows(self, k: int) -> NDArray[np.uint8]:
        """The rows of block ``k``, as bytes, until the next call.

        Raises
        ------
        SourceError
            It cannot be read, a line is no row, or the child has died.
        """
        if self._held is not None:
            child, slot = self._held
            child.free.append(slot)
            self._held = None
        if k != self._next:
            for block, child, slot in self._flight:
                self._receive(child, block)
                child.free.append(slot)
            self._flight.clear()
            self._asked = k
        self._next = k
        self._ask()
        _, child, slot = self._flight.popleft()
        self._next, self._held = k + 1, (child, slot)
        error = self._receive(child, k)
        if error is not None:
            raise error
        return child.memory[slot, : self.blocks[k].n_rows * self.table.row_bytes]

    def close(self) -> None:
        """End all children. What was handed out last stays."""
        _end(self._children, os.getpid())

    def _ask(self) -> None:
        while self._asked < len(self.blocks):
            block = self.blocks[self._asked]
            # Blocks of one gzip file go to one child, which decompresses it once.
            child = self._children[(block.file if block.gzipped else self._asked) % len(self._children)]
            if not child.free:
                return
            slot = child.free.pop()
            self._flight.append((self._asked, child, slot))
            self._asked += 1
            try:
                child.connection.send((block, slot))
            except OSError:
                return  # it is dead, which is said when its block is wanted

    def _receive(self, child: _Child, k: int) -> SwathError | None:
        try:
            error: SwathError | None = child.connection.recv()
        except (EOFError, OSError):
            block = self.blocks[k]
            status = child.process.wait()
            self.close()
            raise SourceError(
                f"The process that parsed {block.path} from line {block.line} {how_it_ended(status)}. "
                "Run the same call again, with a smaller memory_limit if memory ran out."
            ) from None
        return error


def _end(children: list[_Child], owner: int) -> None:
    if os.getpid() != owner:  # a fork, to which they do not belong
        return
    while children:
        child = children.pop()
        end_child(child.process, child.connection)


def serve(socket_fd: int, memory_fd: int) -> None:
    """What a child does, until its socket is closed."""
    connection = Connection(socket_fd)
    table, slot_bytes = connection.recv()
    memory = np.frombuffer(mmap.mmap(memory_fd, _SLOTS * slot_bytes), np.uint8).reshape(_SLOTS, -1)
    reader = BlockReader()
    while True:
        try:
            block, slot = connection.recv()
            connection.send(_answer(reader, block, table, memory[slot]))
        except (EOFError, OSError):
            return


def _answer(reader: BlockReader, block: Block, table: Table, memory: NDArray[np.uint8]) -> SwathError | None:
    try:
        parse_block(reader, block, table, memory[: block.n_rows * table.row_bytes])
    except SwathError as error:
        return error
    except MemoryError:
        return SourceError(
            f"There was no memory to parse {block.path} from line {block.line}. Give a smaller memory_limit."
        )
    return None
