"""The same hostile files opened by several programs: who crashes, hangs, takes all memory, or gives wrong rows?

python benchmarks/hostile_input.py               # 10,000 tries with each program
python benchmarks/hostile_input.py --only shards

Corpora are those of tests/hostile: sound arrays of which one file was mutated, by a seed, in its bytes or its values; or lies, with
its checksum made right again; or is no file at all. Each try opens it and reads some windows, in a child process with limits. An error
is counted as untyped where it is none of those that a user of the program would expect (for swath: a `SwathError`). What zarr-python
reads of a foreign array is right by definition. Prints a table, and writes ``benchmarks/results/hostile.json``.
"""

import re
import sys
import tempfile
from pathlib import Path

import click
from machine import describe_machine
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostile.corpora import attempt_all, corpora, tally
from hostile.harness import Result

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
@click.option("--tries", default=10_000, show_default=True, help="With each program, of all corpora together.")
@click.option("--only", default="", help="A regular expression for the names of corpora.")
@folder_option
@results_option
def main(tries: int, only: str, folder: Path, results: Path) -> None:
    """Open each corpus by each program."""
    chosen = [corpus for corpus in corpora() if re.search(only, corpus.name)]
    found: dict[str, dict[str, list[Result]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        for k, prepare in enumerate(dict.fromkeys(corpus.prepare for corpus in chosen)):
            place = Path(tmp) / str(k)
            place.mkdir()
            prepare(place)
            own = [corpus for corpus in chosen if corpus.prepare == prepare]
            found |= attempt_all(own, place, range(-(-tries // len(chosen))))
    groups = sorted({name.partition(",")[0] for name in found})
    table = Table("corpus", "program", *_COLUMNS)
    for group in groups:
        for library in dict.fromkeys(library for name in found for library in found[name]):
            of = [r for name in found if name.partition(",")[0] == group for r in found[name].get(library, [])]
            if of:
                table.add_row(group, library, *(str(tally(of)[column]) for column in _COLUMNS))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    record = {name: {library: tally(of) for library, of in by.items()} for name, by in found.items()}
    save(results, "hostile", {"machine": describe_machine(), "tries": tries, "corpora": record})


if __name__ == "__main__":
    main()
