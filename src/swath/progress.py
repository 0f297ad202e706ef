"""How far is what takes long, how fast, and how long will it take? A bar, on a terminal or in a notebook.

A bar that nobody asked for comes only where somebody looks on, and only after a second. One thread shows it, five times a second at
most, so that threads that work only count.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from html import escape
from typing import Any, Protocol

from swath.drawing import READ
from swath.memory import format_bytes, format_seconds

Advance = Callable[[float], None]
"""What is told of bytes that are done."""

_AFTER_SECONDS = 1.0
_EVERY_SECONDS = 0.2


class _Face(Protocol):
    """Where a bar is seen. One thread calls it."""

    def show(self, done: float) -> None:
        """So many bytes are done."""
        ...

    def close(self, done: float) -> None:
        """There will be no more."""
        ...


@contextlib.contextmanager
def progress_bar(label: str, total: int | None, wanted: bool | None, *, done: int = 0) -> Iterator[Advance]:
    """A function to be told of bytes that are done, which moves a bar of ``total``, None if nobody knows it; threads may call it.

    ``wanted`` is None for a bar after a second where stderr is a terminal, or in a notebook, and True for one at once. ``done`` are
    bytes that earlier runs have written.
    """
    make = _face_for(wanted)
    if make is None:
        yield lambda n_bytes: None
        return
    so_far, lock, ended, pid = float(done), threading.Lock(), threading.Event(), os.getpid()
    begun = time.monotonic()

    def advance(n_bytes: float) -> None:
        nonlocal so_far
        with lock:
            so_far += n_bytes

    def show() -> None:
        if wanted is None and ended.wait(_AFTER_SECONDS):
            return
        face = make(label, total, done, begun)
        face.show(so_far)
        while not ended.wait(_EVERY_SECONDS):
            face.show(so_far)
        face.close(so_far)

    # A notebook knows by the context to which cell belongs what is shown.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(show,), daemon=True, name="swath-progress")
    thread.start()
    try:
        yield advance
    finally:
        # In a child that was forked there is no such thread; and one that was forgotten may be collected by it.
        if os.getpid() == pid:
            ended.set()
            if threading.current_thread() is not thread:
                thread.join()


def _face_for(wanted: bool | None) -> Callable[[str, int | None, int, float], _Face] | None:
    if wanted is False:
        return None
    if _notebook() is not None:
        return _Notebook
    return _Terminal if wanted or (sys.stderr is not None and sys.stderr.isatty()) else None


def _notebook() -> Any:
    """The kernel of the notebook in which this runs; None elsewhere."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else getattr(ipython.get_ipython(), "kernel", None)


class _Terminal:
    """A bar on stderr."""

    def __init__(self, label: str, total: int | None, done: int, begun: float) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        # What a program prints meanwhile goes above the bar; but where stdout goes elsewhere it stays what it is.
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, redirect_stdout=on_terminal)
        self._task = self._bar.add_task(label, total=total, completed=done)
        self._bar.start()

    def show(self, done: float) -> None:
        self._bar.update(self._task, completed=done, refresh=True)

    def close(self, done: float) -> None:
        self.show(round(done))  # parts that do not add up by a millionth of a byte would leave the bar open
        self._bar.stop()


class _Notebook:
    """A bar below a cell, always in the same place; when it has ended, one line is left of it."""

    def __init__(self, label: str, total: int | None, done: int, begun: float) -> None:
        self._label, self._total, self._before, self._begun = label, total, done, begun
        self._id: str | None = None

    def show(self, done: float) -> None:
        told = [format_bytes(done) + ("" if self._total is None else f" of {format_bytes(self._total)}")]
        rate = self._rate(done)
        told += [f"{format_bytes(rate)}/s"]
        if self._total is not None and rate > 0:
            told += [f"{format_seconds((self._total - done) / rate)} left"]
        share = 0.0 if not self._total else min(1.0, done / self._total)
        self._put(
            '<div style="display:inline-block;vertical-align:middle;width:240px;height:8px;margin:0 10px;border-radius:4px;'
            'overflow:hidden;background:color-mix(in srgb,currentColor 15%,transparent)">'
            f'<div style="width:{share:.1%};height:100%;background:{READ}"></div></div>{escape(", ".join(told))}'
        )

    def close(self, done: float) -> None:
        seconds = time.monotonic() - self._begun
        stopped = (
            "" if self._total is None or done >= 0.999 * self._total else f"stopped, of {format_bytes(self._total)} "
        )
        self._put(
            f"&ensp;{stopped}{format_bytes(done)} in {format_seconds(seconds)}, {format_bytes(self._rate(done))}/s"
        )

    def _rate(self, done: float) -> float:
        return (done - self._before) / max(1e-9, time.monotonic() - self._begun)

    def _put(self, content: str) -> None:
        from IPython.display import display

        shown = f'<div style="font-family:system-ui,sans-serif;font-size:13px">{escape(self._label)}{content}</div>'
        # Without text: programs that read a notebook have nothing to do with it.
        bundle = {"text/html": shown, "text/plain": ""}
        if self._id is None:
            self._id = uuid.uuid4().hex
            display(bundle, raw=True, display_id=self._id)
        else:
            display(bundle, raw=True, display_id=self._id, update=True)
