"""Commands that say what an array is, and read from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swath.cli import options as opt
from swath.cli.output import array_facts, say, say_array, say_json
from swath.errors import DiskFullError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swath.array import RowArray
    from swath.gather import Verify


def arrays_at(url: str) -> Mapping[str, RowArray]:
    """The arrays of a group by name, or the one array that there is, without a name."""
    import swath

    try:
        return swath.open_group(url)
    except StoreError:
        return {"": swath.open(url)}


def all_arrays_at(url: str) -> Mapping[str, RowArray]:
    """The same, with those of a group that do not go by rows."""
    from swath.group import RowGroup

    arrays = arrays_at(url)
    return {**arrays, **arrays.beside} if isinstance(arrays, RowGroup) else arrays


@click.command()
@click.argument("url", type=opt.Place())
@opt.common
def info(url: str, as_json: bool) -> None:
    """Say what an array holds, and how.

    A store, a group of them, or any array that swath opens in place.

    \b
    Examples:
      swath info recording.zarr
      swath info recording.h5::signal
      swath info recording.zarr --json
    """
    arrays = arrays_at(url)
    if as_json:
        facts = {name: array_facts(a) for name, a in arrays.items()}
        say_json(facts.get("", {"url": url, "arrays": facts}))
        return
    for name, a in arrays.items():
        if name:
            say(f"{name}:")
        say_array(a)


@click.command()
@click.argument("url", type=opt.Place())
@opt.starts
@opt.columns
@opt.common
def plan(
    url: str,
    starts: str | None,
    n_random: int | None,
    seed: int,
    window: int | None,
    columns: slice | list[int] | None,
    as_json: bool,
) -> None:
    """Say what a gather would cost, without reading.

    \b
    Examples:
      swath plan recording.zarr --random 1000
      swath plan recording.zarr --starts 3,500,7 --window 32
    """
    import swath

    a = swath.open(url)
    found = a.plan(opt.choose_starts(a, starts, n_random, seed, window), window=window, columns=columns)
    if not as_json:
        say(str(found))
        return
    say_json(
        {
            "url": a.url,
            "windows": int(found.starts.size),
            "window": found.window,
            "batch_shape": list(found.batch_shape),
            "dtype": str(found.layout.dtype),
            "bytes_wanted": found.bytes_wanted,
            "bytes_read": found.bytes_read,
            "bytes_decoded": found.bytes_decoded,
            "amplification": found.amplification,
            "requests": found.requests,
            "shards": int(found.shards.size),
            "chunks": found.chunks,
            "threads": found.threads,
            "peak_bytes": found.peak_bytes,
            "ingested_bytes": found.ingested_bytes,
        }
    )


@click.command()
@click.argument("url", type=opt.Place())
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@opt.starts
@opt.columns
@opt.memory_limit
@click.option("--verify", type=click.Choice(opt.VERIFY), default="always", show_default=True, help="Checksums.")
@opt.common
def gather(
    url: str,
    out: Path,
    starts: str | None,
    n_random: int | None,
    seed: int,
    window: int | None,
    columns: slice | list[int] | None,
    memory_limit: int | None,
    verify: Verify,
    as_json: bool,
) -> None:
    """Gather windows into the .npy file OUT.

    The batch may be larger than memory.

    \b
    Examples:
      swath gather recording.zarr batch.npy --starts 3,500,7
      swath gather recording.zarr random.npy --random 1000 --memory-limit 8GiB
      swath gather recording.zarr some.npy --random 1000 --columns 0:50
      swath gather recording.zarr named.npy --starts starts.npy
    """
    import numpy as np

    import swath
    from swath.memory import format_bytes

    if out.suffix != ".npy" or out.exists():
        raise click.UsageError(f"{out} is to be a new .npy file" + (", but it exists." if out.exists() else "."))
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"There is no folder {out.parent} for {out.name}. Make it first.")
    a = swath.open(url)
    chosen = opt.choose_starts(a, starts, n_random, seed, window)
    shape = a.plan(chosen, window=window, columns=columns).batch_shape
    partial = out.with_name(f".{out.name}.swath-part")
    try:
        batch = np.lib.format.open_memmap(partial, "w+", a.dtype, shape)
        _take_room(partial, out)
        if batch.size:
            a.gather(chosen, window=window, columns=columns, out=batch, memory_limit=memory_limit, verify=verify)
        batch.flush()
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    if as_json:
        say_json({"out": str(out), "shape": list(shape), "dtype": str(a.dtype), "bytes": batch.nbytes})
    else:
        say(f"{out}: {shape} {a.dtype}, {format_bytes(batch.nbytes)}")


def _take_room(partial: Path, out: Path) -> None:
    """Have the disk give all that a file shall have: a page of a mapping for which it has none ends the process.

    Raises
    ------
    DiskFullError
    """
    from swath.storage import take_room

    n_bytes = partial.stat().st_size
    try:
        with partial.open("r+b") as file:
            take_room(file.fileno(), 0, n_bytes)
    except OSError as error:
        raise DiskFullError(
            f"There is no room for the {n_bytes} bytes of {out} ({error.strerror}). Ask for fewer windows, or choose another disk."
        ) from error


@click.command()
@click.argument("url", type=opt.Place(), metavar="STORE")
@click.argument("target", type=opt.Place())
@opt.row_range
@click.option("--chunk-rows", type=int, help="Rows of a chunk, in HDF5 (else contiguous) and Zarr.")
@opt.memory_limit
@click.option("--overwrite", is_flag=True, help="Replace what is there, once the new one is whole.")
@opt.common
def export(url: str, target: str, rows: slice | None, as_json: bool, **options: Any) -> None:
    """Write STORE, or some of its rows, to TARGET.

    TARGET is FILE.h5::NAME, a .npy file, a .zarr folder, or the bytes alone in a .raw, .bin or .dat file.

    \b
    Examples:
      swath export recording.zarr copy.h5::signal
      swath export recording.zarr first.npy --rows 0:1000
    """
    import swath

    a = swath.open(url)
    swath.export(a, target, rows=rows, **options)
    n_rows = len(range(*(rows or slice(None)).indices(len(a))))
    if as_json:
        say_json({"target": target, "shape": [n_rows, *a.shape[1:]], "dtype": str(a.dtype)})
    else:
        say(f"{target}: {(n_rows, *a.shape[1:])} {a.dtype}")
