"""Which corpora there are, and what became of their cases with each library."""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hostile.harness import MOST_GROWTH, MOST_SECONDS, Result, run

# Modules of this package with a list `CORPORA`.
_MODULES = ["metadata", "shards", "inputs"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Cases of one kind, each made by a seed."""

    name: str
    kind: str
    """As the entries know it."""
    prepare: Callable[[Path], None]
    """Writes, into a folder, what the entries break copies of. Corpora that share it share the folder."""
    entries: Mapping[str, str]
    """By library: ``"module:function"`` of folder, kind and seed, as `hostile.harness.run` takes it. The text that a call gives is
    its answer."""
    oracle: str | None = None
    """The library whose answers the others must give too, where they give any; None where the calls themselves say what is wrong."""


def corpora() -> list[Corpus]:
    """All that there are."""
    return [corpus for name in _MODULES for corpus in importlib.import_module(f"hostile.{name}").CORPORA]


def attempt(
    corpus: Corpus, folder: Path, seeds: Iterable[int], libraries: Iterable[str] = ()
) -> dict[str, list[Result]]:
    """What became of each seed with each library, or with those that are named, beside the oracle."""
    return attempt_all([corpus], folder, seeds, libraries)[corpus.name]


def attempt_all(
    some: Sequence[Corpus], folder: Path, seeds: Iterable[int], libraries: Iterable[str] = (), **limits: Any
) -> dict[str, dict[str, list[Result]]]:
    """The same of several corpora that share a folder, by name: those that share an entry share a child too. ``limits`` are those of `run`."""
    seeds = list(seeds)
    found: dict[str, dict[str, list[Result]]] = {corpus.name: {} for corpus in some}
    wanted = [
        (corpus, library, entry)
        for corpus in some
        for library, entry in corpus.entries.items()
        if not libraries or library in libraries or library == corpus.oracle
    ]
    for entry in dict.fromkeys(entry for *_, entry in wanted):
        own = [(corpus, library) for corpus, library, other in wanted if other == entry]
        results = run(entry, [[str(folder), corpus.kind, seed] for corpus, _ in own for seed in seeds], **limits)
        for corpus, library in own:
            found[corpus.name][library] = list(itertools.islice(results, len(seeds)))
    for corpus in some:
        by = found[corpus.name]
        for library in by.keys() - {corpus.oracle} if corpus.oracle else ():
            by[library] = [_compared(a, b) for a, b in zip(by[library], by[str(corpus.oracle)], strict=True)]
    return found


def _compared(result: Result, oracle: Result) -> Result:
    if (result.outcome, oracle.outcome) == ("ok", "ok") and result.text != oracle.text:
        return replace(result, outcome="wrong", text=f"{result.text}, and the oracle says {oracle.text}")
    return result


def tally(results: Iterable[Result]) -> dict[str, int | float]:
    """The figures of a table."""
    results = list(results)
    of = Counter(result.outcome for result in results)
    return {
        "tries": len(results),
        "answers": of["ok"],
        "typed errors": of["typed error"],
        "other errors": of["other error"],
        "crashes": of["crash"],
        "hangs": of["hang"],
        "too slow": sum(result.seconds > MOST_SECONDS and result.outcome != "hang" for result in results),
        "too large": sum(result.growth > MOST_GROWTH for result in results),
        "wrong": of["wrong"],
        "most seconds": round(max((result.seconds for result in results), default=0.0), 3),
        "most growth": max((result.growth for result in results), default=0),
    }
