"""A bar on stderr for what takes long: how far it is, how fast, and how long it will take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(label: str, total: int, wanted: bool | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A function to be told of bytes that are written, which moves a bar of ``total``; threads may call it.

    ``wanted`` is None for a bar where stderr is a terminal. ``done`` are bytes that earlier runs have written.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not (console.is_terminal if wanted is None else wanted):
        yield lambda n_bytes: None
        return
    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda n_bytes: bar.advance(task, n_bytes)
