"""What commands print: text for people, which fits the terminal, or one JSON object for programs."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from swath.array import RowArray

# Of a table where there is no terminal.
_PIPE_COLUMNS = 120


def say(text: str) -> None:
    """Print lines. In a terminal a long one goes on below the second of its columns; a pipe gets each as it is."""
    if sys.stdout.isatty():
        text = "\n".join(_wrapped(line, columns()) for line in text.splitlines())
    click.echo(text)


def say_json(facts: Mapping[str, Any]) -> None:
    """Print one object, on one line."""
    click.echo(json.dumps(facts))


def columns() -> int:
    """Of the terminal, or of what a table has in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_COLUMNS


def say_table(table: Table) -> None:
    """Print a table of rich, which adapts it to the terminal; in colours only where there are any."""
    from rich.console import Console

    console = Console(width=columns())
    with console.capture() as captured:
        console.print(table)
    click.echo(captured.get(), nl=False, color=True)


def array_facts(a: RowArray) -> dict[str, Any]:
    """What an array is, as JSON values."""
    return {
        "url": a.url,
        "shape": list(a.shape),
        "dtype": str(a.dtype),
        "bytes": a.nbytes,
        "window": a.window,
        "chunk_rows": a.chunk_rows,
        "shard_rows": a.shard_rows,
        "codec": a.codec,
        "why": a.reason,
        "segments": len(a.segments),
    }


def say_array(a: RowArray) -> None:
    """Print what an array is."""
    from typing import get_args

    from swath.layout import CodecName, read_amplification
    from swath.memory import format_bytes

    facts = array_facts(a)
    facts["bytes"] = format_bytes(a.nbytes)
    facts["shape"] = a.shape
    if a.codec in get_args(CodecName):
        amplification = read_amplification(a.chunk_rows, a.window)
        facts["chunk_rows"] = f"{a.chunk_rows} ({amplification:.2f} bytes read for each byte wanted at random)"
    say("\n".join(f"{name:<11} {value}" for name, value in facts.items()))


def _wrapped(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    name, gap, _ = line.partition("  ")
    value = line[len(name) + len(gap) :].lstrip() if gap and name else line.lstrip()
    indent = " " * (len(line) - len(value)) if gap else "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
