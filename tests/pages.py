"""Pages of the documentation as programs: their blocks of code, in order, as a reader would run them.

- ``python`` blocks run in one namespace a page, in one empty folder.
- A comment that begins with ``setup`` is code too, for what a reader has already: files, an array.
- A comment with the name of a framework before a block, ``<!-- torch -->``, says what it needs.
- A block with a ``title`` is a file of that name.
- A ``text`` block right behind a ``python`` block is what that prints; ``...`` stands for anything.
- Of ``bash`` blocks, lines that begin with ``swath`` or ``mkdir``, or with ``python`` and a file that is there, are run.
"""

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swath.cli import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "reference")]
FRAMEWORKS = ("torch", "keras", "jax", "xbatcher")

_BLOCK = re.compile(
    rf"<!-- setup\n(?P<setup>.*?)-->|(?:<!-- (?P<needs>{'|'.join(FRAMEWORKS)}) -->\n+)?"
    r'^```(?P<kind>\w+)(?: title="(?P<title>[\w.]+)")?\n(?P<code>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)

# They measure the machine for some seconds, or ask for gigabytes: only their options are looked at.
_LONG = ("demo", "bench")


@dataclass(frozen=True)
class Block:
    """Some code of a page."""

    kind: str
    code: str
    line: int
    needs: str | None = None
    title: str | None = None


_checker = doctest.OutputChecker()

# The end of one block, an empty line, and the begin of the next.
_NEXT_LINES = 3


def name_of(path: Path) -> str:
    """How tests call a page."""
    return str(path.relative_to(ROOT))


def blocks_of(text: str) -> list[Block]:
    """The code of a page, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        if match["setup"] is not None:
            found.append(Block("python", match["setup"], 1 + text.count("\n", 0, match.start("setup"))))
        else:
            line = 1 + text.count("\n", 0, match.start("code"))
            found.append(Block(match["kind"], match["code"], line, match["needs"], match["title"]))
    return found


def run_page(name: str, text: str, *, with_frameworks: bool, stands_for: Mapping[str, str] | None = None) -> int:
    """Run the blocks of a page in the current folder, and return how many.

    Places that only the reader has (a server, a folder of a cluster) are put another in place of by ``stands_for``.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    ran, end, printed = 0, 0, ""
    for block in blocks_of(text):
        if block.needs is not None and not with_frameworks:
            continue
        code = block.code
        for place, ours in (stands_for or {}).items():
            code = code.replace(place, ours)
        is_next = block.line - end <= _NEXT_LINES
        if block.title is not None:
            Path(block.title).write_text(code)
        elif block.kind == "text" and is_next:
            assert _checker.check_output(block.code, printed, doctest.ELLIPSIS), f"{name}:{block.line} has\n{printed}"
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                # Line numbers of a traceback are those of the page.
                exec(compile("\n" * (block.line - 1) + code, name, "exec"), namespace)
            end, printed = block.line + code.count("\n"), out.getvalue()
            ran += 1
        elif block.kind == "bash":
            for command in commands_of(code):
                _run_command(command)
                ran += 1
    return ran


def commands_of(code: str) -> Iterator[str]:
    """The lines of a bash block that this package is meant by, and the folders that they need."""
    for line in code.replace("\\\n", " ").splitlines():
        command = line.partition("  #")[0].strip().removeprefix(".venv/bin/")
        words = command.split()
        if words[:1] in (["swath"], ["mkdir"]) or (words[:1] == ["python"] and Path(words[1]).exists()):
            yield command


def _run_command(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "swath" and words[0] in _LONG:
        # Words that it does not know are refused before its help is printed.
        cli.main([*words, "--help"], standalone_mode=False)
        return
    # The shell is what expands patterns.
    python = f"{shlex.quote(sys.executable)} -W error"
    line = f'swath() {{ {python} -m swath.cli "$@"; }}; python() {{ {python} "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command}\n{done.stdout}{done.stderr}")
