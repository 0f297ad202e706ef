"""A disk that loses power: what is on it if only what was synced is sure to be there.

The entries of a folder reach the disk in the order of their changes, some of the last perhaps not; those of two folders in any
order. A sync of the folder puts all of them there. The bytes of a file are there when it was synced; before, none, half or all.
A rename from one folder to another is one change, of the folder that it goes to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from faults import Event


@dataclass(slots=True, eq=False)
class Node:
    """A file or a folder."""

    is_folder: bool
    content: bytes = b""
    synced: bytes = b""
    entries: dict[str, "Node"] = field(default_factory=dict)
    """As the processes see them."""
    on_disk: dict[str, "Node"] = field(default_factory=dict)
    pending: list[Callable[[], object]] = field(default_factory=list)
    """What is to be done to ``on_disk``, and has not reached the disk for sure."""

    def walk(self) -> Iterator["Node"]:
        """This one and all below it, on the disk or not."""
        yield self
        for entry in {id(each): each for each in (*self.entries.values(), *self.on_disk.values())}.values():
            yield from entry.walk()


class Disk:
    """What calls below ``root`` leave, which was as ``before`` is."""

    def __init__(self, before: Path, root: Path) -> None:
        self._root = PurePosixPath(root)
        self.top = _read(before)

    def apply(self, event: Event) -> None:
        """One call more.

        Raises
        ------
        AssertionError
            A file gets its name before its bytes are on the disk; or a store, while an entry below it is not.
        """
        folder, name = self._place(event.path)
        node = folder.entries.get(name)
        if event.name in ("open", "mkdir") and node is None:
            node = Node(event.name == "mkdir")
            self._enter(folder, name, node)
        elif event.name == "writev":
            assert node is not None
            node.content += event.content
        elif event.name == "fsync":
            node = self._node(event.path)
            node.synced = node.content
            for change in node.pending:
                change()
            node.pending.clear()
        elif event.name in ("unlink", "rmdir"):
            del folder.entries[name]
            folder.pending.append(lambda: folder.on_disk.pop(name, None))
        elif event.name in ("rename", "replace"):
            assert node is not None
            self._rename(folder, name, node, event.target)

    def _rename(self, folder: Node, name: str, node: Node, path: str) -> None:
        target, new_name = self._place(path)
        for each in node.walk():
            assert each.synced == each.content, f"{path} gets its name before its bytes are on the disk"
        if len(PurePosixPath(path).relative_to(self._root).parts) <= 2 and (node.is_folder or new_name == "zarr.json"):
            # A commit; the metadata of an array of a group are none. Its own temporary, whose creation it ends, may wait.
            for each in (node if node.is_folder else target).walk():
                assert len(each.pending) <= (each is target), (
                    f"{path} commits before the names below it are on the disk"
                )
        del folder.entries[name]
        target.entries[new_name] = node

        def change() -> None:
            folder.on_disk.pop(name, None)
            target.on_disk[new_name] = node

        target.pending.append(change)

    def _enter(self, folder: Node, name: str, node: Node) -> None:
        folder.entries[name] = node
        folder.pending.append(lambda: folder.on_disk.__setitem__(name, node))

    def lose_power(self, how: str, rng: np.random.Generator) -> None:
        """Some of what was not synced is on the disk: ``"none"``, ``"all"``, ``"names"``, without bytes, or ``"some"``."""
        for node in self.top.walk():
            share = {"none": 0.0, "all": 1.0, "names": 1.0, "some": rng.uniform()}[how]
            for change in node.pending[: round(share * len(node.pending))]:
                change()
            if node.synced != node.content and how in ("all", "some"):
                node.synced = node.content[
                    : len(node.content) if how == "all" else int(rng.integers(len(node.content)))
                ]

    def write_to(self, folder: Path) -> None:
        """What a machine finds that starts again."""
        _write(self.top, folder)

    def _node(self, path: str) -> Node:
        node = self.top
        for name in PurePosixPath(path).relative_to(self._root).parts:
            node = node.entries[name]
        return node

    def _place(self, path: str) -> tuple[Node, str]:
        at = PurePosixPath(path)
        return (self.top, "") if at == self._root else (self._node(str(at.parent)), at.name)


def disk_after(before: Path, root: Path, events: Sequence[Event]) -> Disk:
    """The disk after some calls below ``root``, which was as ``before`` is."""
    disk = Disk(before, root)
    for event in events:
        disk.apply(event)
    return disk


def _read(path: Path) -> Node:
    if path.is_file():
        content = path.read_bytes()
        return Node(False, content, content)
    entries = {entry.name: _read(entry) for entry in path.iterdir()}
    return Node(True, entries=entries, on_disk=dict(entries))


def _write(node: Node, path: Path) -> None:
    if node.is_folder:
        path.mkdir()
        for name, entry in node.on_disk.items():
            _write(entry, path / name)
    else:
        path.write_bytes(node.synced)
