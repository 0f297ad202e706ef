"""Commands that write stores."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from swath.cli import options as opt
from swath.cli.output import array_facts, say, say_array, say_json

if TYPE_CHECKING:
    from swath.array import RowArray
    from swath.forecasting import Forecast


@click.command()
@click.argument("sources", nargs=-1, required=True, type=opt.Place(), metavar="SOURCE...")
@click.argument("url", type=opt.Place())
@click.option("--dry-run", is_flag=True, help="Say what would be written, what it needs and takes, and write nothing.")
@click.option("--window", type=int, default=16, show_default=True, help="Rows that most windows will have.")
@click.option("--chunk-rows", type=int, help="Rows that are decoded together; by default chosen for the window.")
@click.option("--shard-rows", type=int, help="Rows of one file; by default about 64 MiB.")
@click.option("--codec", type=click.Choice(opt.CODECS), default="auto", show_default=True)
@click.option(
    "--dtype", help="Of the store, such as float32; of the bytes of a raw file, or of a line of text: S10,i4,f4."
)
@click.option("--casting", type=click.Choice(opt.CASTINGS), default="exact", show_default=True, help="See --dtype.")
@click.option("--rows", type=opt.RowRange(), metavar="A:B", help="Take these rows alone, as :1000 or -500:.")
@click.option(
    "--row-shape", type=opt.Integers(), metavar="N[,N...]", help="Of a raw binary file, such as 2000 or 64,64,3."
)
@opt.memory_limit
@click.option("--overwrite", is_flag=True, help="Replace an array that is there, once the new one is whole.")
@click.option("--no-resume", is_flag=True, help="Begin anew, whatever an interrupted run has written.")
@opt.common
def ingest(
    sources: tuple[str, ...],
    url: str,
    dry_run: bool,
    chunk_rows: int | None,
    shard_rows: int | None,
    no_resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write SOURCE as a store at URL.

    A source is a .npy file, a Zarr array, which may be at a URL, a raw binary file, a table of text, a folder of images,
    file.h5::dataset, file.npz::name or group.zarr::name; several are joined, each a segment. --casting says whether --dtype may change values:
    not at all (exact), round floats (rounded), or whatever numpy does (unsafe).

    \b
    Examples:
      swath ingest recording.h5::signal recording.zarr --dry-run
      swath ingest recording.h5::signal recording.zarr
      swath ingest part-*.npy all.zarr --window 32
      swath ingest samples.bin samples.zarr --dtype float32 --row-shape 64
      swath ingest recording.h5::signal small.zarr --codec zstd --memory-limit 2GiB
    """
    import swath

    options |= {
        "chunk_rows": "auto" if chunk_rows is None else chunk_rows,
        "shard_rows": "auto" if shard_rows is None else shard_rows,
        "resume": not no_resume,
    }
    if dry_run:
        _say_forecast(swath.forecast([*map(opt.source_of, sources)], url, **options), as_json)
        return
    with _carried_on():
        a = swath.ingest([*map(opt.source_of, sources)], url, **options)
    _say_written(a, as_json)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=opt.Place(), metavar="SOURCE...")
@click.argument("store", type=opt.Place())
@click.option("--casting", type=click.Choice(opt.CASTINGS), default="exact", show_default=True, help="As of ingest.")
@opt.timeout
@opt.memory_limit
@opt.common
def append(sources: tuple[str, ...], store: str, as_json: bool, **options: Any) -> None:
    """Write SOURCE behind the last row of STORE.

    All of it becomes visible at one instant; interrupted and called again, it carries on.

    \b
    Examples:
      swath append day-2.npy day-3.npy all.zarr
    """
    import swath

    with _carried_on():
        a = swath.open(store).append([*map(opt.source_of, sources)], **options)
    _say_written(a, as_json)


@contextlib.contextmanager
def _carried_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command, run again, carries on") from None


def _say_written(a: RowArray, as_json: bool) -> None:
    if as_json:
        say_json(array_facts(a))
    else:
        say_array(a)


def _say_forecast(found: Forecast, as_json: bool) -> None:
    if as_json:
        layout = found.layout
        facts = {
            field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "layout"
        }
        say_json(
            {
                **facts,
                "shape": list(layout.shape),
                "dtype": str(layout.dtype),
                "chunk_rows": layout.chunk_rows,
                "shard_rows": layout.shard_rows,
                "chunks": layout.n_chunks,
                "shards": layout.n_shards,
                "codec": layout.codec,
                "source_bytes": found.source_bytes,
                "needed_bytes": found.needed_bytes,
                "expected_s": found.expected_s,
                "fits": found.fits,
            }
        )
    else:
        say(f"{found}\nNothing was written.")
    found.check()
