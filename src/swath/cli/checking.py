"""Commands that find damage, and mend it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from swath.cli import options as opt
from swath.cli.output import say, say_json
from swath.cli.reading import all_arrays_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swath.array import RowArray
    from swath.check import Verification


@click.command()
@click.argument("store", type=opt.Place())
@click.option(
    "--source",
    "sources",
    type=opt.Place(),
    multiple=True,
    metavar="[NAME=]SOURCE",
    help="What it was made of, to be compared.",
)
@opt.memory_limit
@opt.common
def verify(store: str, sources: tuple[str, ...], memory_limit: int | None, as_json: bool) -> None:
    """Check every byte of STORE, a store or a group.

    Exit code 0 if all is sound, 1 if something is damaged. The sources are all that was ingested and appended, in order; of
    an array of a group NAME=SOURCE.

    \b
    Examples:
      swath verify all.zarr
      swath verify all.zarr --source day-1.npy --source day-2.npy
    """
    arrays = all_arrays_at(store)
    given = _by_name(sources, arrays)
    found = [a.verify(given.get(name), memory_limit=memory_limit) for name, a in arrays.items()]
    if as_json:
        say_json({"url": store, "sound": all(found), "arrays": [_verified(each) for each in found]})
    else:
        for each in found:
            say(str(each))
    sys.exit(0 if all(found) else 1)


@click.command()
@click.argument("store", type=opt.Place())
@click.argument("sources", nargs=-1, required=True, type=opt.Place(), metavar="[NAME=]SOURCE...")
@opt.timeout
@opt.memory_limit
@opt.common
def repair(store: str, sources: tuple[str, ...], timeout: float, memory_limit: int | None, as_json: bool) -> None:
    """Write what is damaged in STORE again.

    The sources are all that was ingested and appended, in order; of an array of a group NAME=SOURCE.

    \b
    Examples:
      swath repair all.zarr day-1.npy day-2.npy
      swath repair group.zarr X=x.npy y=y.npy
    """
    arrays = all_arrays_at(store)
    facts: list[dict[str, Any]] = []
    for name, source in _by_name(sources, arrays).items():
        a = arrays[name]
        mended = a.repair(source, timeout=timeout, memory_limit=memory_limit)
        facts.append({"url": a.url, "mended": [asdict(damage) for damage in mended]})
        if not as_json:
            say(f"{a.url}: " + ("mended" if mended else "nothing to mend"))
            for damage in mended:
                say(f"  {damage.path}: rows {damage.rows[0]} to {damage.rows[1] - 1}")
    if as_json:
        say_json({"url": store, "arrays": facts})


def _verified(found: Verification) -> dict[str, Any]:
    facts = asdict(found)
    return {"url": facts.pop("url"), "sound": bool(found), "bytes": facts.pop("n_bytes"), **facts}


def _by_name(sources: tuple[str, ...], arrays: Mapping[str, RowArray]) -> dict[str, list[Any]]:
    """Sources of each array."""
    if "" in arrays:
        return {"": [*map(opt.source_of, sources)]} if sources else {}
    named: dict[str, list[Any]] = {}
    for word in sources:
        name, separator, source = word.partition("=")
        if not separator or name not in arrays:
            raise click.UsageError(f"{word!r} is for none of the arrays {', '.join(arrays)}. Give NAME=SOURCE.")
        named.setdefault(name, []).append(opt.source_of(source))
    return named
