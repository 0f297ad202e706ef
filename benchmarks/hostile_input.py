"""The same hostile files opened by several programs: who crashes, hangs, takes all memory, or gives wrong rows?

python benchmarks/hostile_input.py               # 10,000 tries of each kind with each program: an hour and a half on two cores
python benchmarks/hostile_input.py --only "^text" --tries 1000
python benchmarks/hostile_input.py --only "^text" --program swath   # six minutes: numpy is what takes the rest

Corpora are those of tests/hostile: sound arrays of which one file was mutated, by a seed, in its bytes or its values; or lies, with
its checksum made right again; or is no file at all. Each try opens it and reads some windows, in a child process with limits. An error
is counted as untyped where it is none of those that a user of the program would expect (for swath: a `SwathError`). What zarr-python
reads of a foreign array is right by definition. Prints a table, and writes ``benchmarks/results/hostile.json``, in which the corpora of
other runs stay, and so do other programs.
"""

import json
import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
from machine import describe_machine
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostile.corpora import Corpus, attempt_all, corpora, tally
from hostile.harness import MOST_SECONDS, Result

_COLUMNS = [
    "tries",
    "answers",
    "typed errors",
    "other errors",
    "crashes",
    "hangs",
    "too slow",
    "too large",
    "wrong",
    "most growth",
]


@click.command()
@click.option("--tries", default=10_000, show_default=True, help="Of each kind, with each program.")
@click.option("--only", default="", help="A regular expression for the names of corpora.")
@click.option(
    "--program",
    multiple=True,
    help="Such as swath, beside what its answers are compared with. Several may be given.  [default: all]",
)
@folder_option
@results_option
def main(tries: int, only: str, program: tuple[str, ...], folder: Path, results: Path) -> None:
    """Open each corpus by each program."""
    by_kind: defaultdict[str, list[Corpus]] = defaultdict(list)
    for corpus in corpora():
        if re.search(only, corpus.name):
            by_kind[_kind(corpus.name)].append(corpus)
    kept = results / "hostile.json"
    record: dict[str, Any] = json.loads(kept.read_text())["corpora"] if kept.exists() else {}
    found: dict[str, dict[str, list[Result]]] = {}
    with (
        tempfile.TemporaryDirectory(dir=folder) as tmp,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,  # each waits for a child
    ):
        runs = [
            pool.submit(_attempt, some, Path(tmp) / f"{kind}-{k}", range(-(-tries // len(of_kind))), program)
            for kind, of_kind in by_kind.items()
            for k, some in enumerate(_sharing(of_kind))
        ]
        for run in as_completed(runs):
            found |= run.result()
            for name, by in run.result().items():
                record[name] = {**record.get(name, {}), **{by_whom: tally(of) for by_whom, of in by.items()}}
            save(results, "hostile", {"machine": describe_machine(), "corpora": record})
    table = Table("kind", "program", *_COLUMNS)
    for kind in by_kind:
        for name in dict.fromkeys(name for corpus in by_kind[kind] for name in corpus.entries):
            if of := [result for corpus in by_kind[kind] for result in found[corpus.name].get(name, [])]:
                table.add_row(kind, name, *(str(tally(of)[column]) for column in _COLUMNS))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _kind(name: str) -> str:
    """Shards and chunks are both of Zarr."""
    kind = name.partition(",")[0]
    return "rows of Zarr" if kind in ("shards", "chunks") else kind


def _sharing(some: list[Corpus]) -> list[list[Corpus]]:
    """Corpora that share what they break."""
    return [
        [corpus for corpus in some if corpus.prepare == prepare]
        for prepare in dict.fromkeys(each.prepare for each in some)
    ]


def _attempt(
    some: list[Corpus], place: Path, seeds: range, programs: Sequence[str]
) -> dict[str, dict[str, list[Result]]]:
    place.mkdir()
    some[0].prepare(place)
    # Libraries that wait for ever, as for a fifo, are many: nothing else runs here, so that they need not be waited for long.
    return attempt_all(some, place, seeds, programs, seconds=MOST_SECONDS, waits=3)


if __name__ == "__main__":
    main()
