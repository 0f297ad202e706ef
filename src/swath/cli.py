"""The ``swath`` command: each subcommand is one public call and what it prints."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from numpy.typing import NDArray

import swath
from swath.array import RowArray
from swath.errors import OptionError, StartsError, StoreError, SwathError
from swath.gather import Verify
from swath.layout import CodecName
from swath.measure import Job, measure, random_starts
from swath.memory import format_bytes
from swath.sources.converted import Casting


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(swath.__version__, prog_name="swath")
def cli() -> None:
    """Random row windows from arrays bigger than memory."""


def main() -> None:
    """Run the command; an error of swath is one line and exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except SwathError as error:
        click.echo(f"swath: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("swath: interrupted", err=True)
        sys.exit(130)


_window = click.option("--window", type=int, help="Rows of a window; by default what the store was laid out for.")
_memory_limit = click.option("--memory-limit", metavar="SIZE", help="What the call may use, such as 8GiB.")
_starts = click.option("--starts", metavar="LIST|FILE", help="Starts as 3,500,7, or a .npy or text file of them.")
_random = click.option("--random", "n_random", type=int, metavar="N", help="N random starts instead.")
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Of the random starts.")


@cli.command()
@click.option("--full", is_flag=True, help="2,000,000 x 2000 float64: 32 GB, and as much again for the store.")
@click.option("--rows", type=click.IntRange(min=1000), help="Rows of the source; by default what suits the machine.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where to work, and leave nothing."
)
def demo(full: bool, rows: int | None, folder: Path | None) -> None:
    """Run the reference job on this machine.

    Beside h5py and numpy.memmap, in one table.
    """
    from rich.console import Console

    from swath.demo import REFERENCE_ROWS, demo_table, run_demo

    Console(width=None if sys.stdout.isatty() else 120).print(
        demo_table(run_demo(folder, REFERENCE_ROWS if full else rows))
    )


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("url")
@click.option("--window", type=int, default=16, show_default=True, help="Rows that most windows will have.")
@click.option("--chunk-rows", type=int, help="Rows that are decoded together; by default chosen for the window.")
@click.option("--shard-rows", type=int, help="Rows of one file; by default about 64 MiB.")
@click.option("--codec", type=click.Choice(["auto", *get_args(CodecName)]), default="auto", show_default=True)
@click.option(
    "--dtype", help="Of the store, such as float32; of the bytes of a raw file, or of a line of text: S10,i4,f4."
)
@click.option(
    "--casting", type=click.Choice(get_args(Casting)), default="exact", show_default=True, help="See --dtype."
)
@click.option("--rows", metavar="A:B", help="Take these rows alone, as :1000 or -500:.")
@click.option("--row-shape", metavar="N[,N...]", help="Of a raw binary file, such as 2000 or 64,64,3.")
@_memory_limit
@click.option("--overwrite", is_flag=True, help="Replace an array that is there, once the new one is whole.")
@click.option("--no-resume", is_flag=True, help="Begin anew, whatever an interrupted run has written.")
def ingest(
    sources: tuple[str, ...],
    url: str,
    chunk_rows: int | None,
    shard_rows: int | None,
    row_shape: str | None,
    rows: str | None,
    no_resume: bool,
    **options: Any,
) -> None:
    """Write SOURCE as a store at URL.

    A source is a .npy file, a Zarr array, a raw binary file, file.h5::dataset, file.npz::name or group.zarr::name;
    several are joined, each a segment. --casting says whether --dtype may change values: not at all (exact), round floats
    (rounded), or whatever numpy does (unsafe).

    \b
    swath ingest recording.h5::signal recording.zarr
    swath ingest part-*.npy all.zarr --window 32
    swath ingest samples.bin samples.zarr --dtype float32 --row-shape 64
    """
    a = swath.ingest(
        list(sources),
        url,
        chunk_rows="auto" if chunk_rows is None else chunk_rows,
        shard_rows="auto" if shard_rows is None else shard_rows,
        row_shape=_integers(row_shape, "--row-shape") if row_shape else None,
        rows=None if rows is None else _slice(rows),
        resume=not no_resume,
        **options,
    )
    _print_info(a)


@cli.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(url: str, as_json: bool) -> None:
    """Say what an array holds, and how.

    A store, a group of them, or any array that swath opens in place.
    """
    arrays = _arrays(url)
    if as_json:
        infos = {name: _info(a) for name, a in arrays.items()}
        click.echo(json.dumps(infos.get("", {"url": url, "arrays": infos})))
        return
    for name, a in arrays.items():
        if name:
            click.echo(f"{name}:")
        _print_info(a)


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("store")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for another writer.")
@_memory_limit
def append(sources: tuple[str, ...], store: str, timeout: float, memory_limit: str | None) -> None:
    """Write SOURCE behind the last row of STORE.

    All of it becomes visible at one instant; interrupted and called again, it carries on.

    \b
    swath append day-2.npy day-3.npy all.zarr
    """
    _print_info(swath.open(store).append(list(sources), timeout=timeout, memory_limit=memory_limit))


@cli.command()
@click.argument("store")
@click.option(
    "--source", "sources", multiple=True, metavar="[NAME=]SOURCE", help="What it was made of, to be compared."
)
@_memory_limit
def verify(store: str, sources: tuple[str, ...], memory_limit: str | None) -> None:
    """Check every byte of STORE, a store or a group.

    Exit code 0 if all is sound, 1 if something is damaged. The sources are all that was ingested and appended, in order; of
    an array of a group NAME=SOURCE.

    \b
    swath verify all.zarr
    swath verify all.zarr --source day-1.npy --source day-2.npy
    """
    arrays = _arrays(store)
    given = _by_name(sources, arrays)
    found = [a.verify(given.get(name), memory_limit=memory_limit) for name, a in arrays.items()]
    for each in found:
        click.echo(str(each))
    sys.exit(0 if all(found) else 1)


@cli.command()
@click.argument("store")
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]SOURCE...")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for another writer.")
@_memory_limit
def repair(store: str, sources: tuple[str, ...], timeout: float, memory_limit: str | None) -> None:
    """Write what is damaged in STORE again.

    The sources are all that was ingested and appended, in order; of an array of a group NAME=SOURCE.

    \b
    swath repair all.zarr day-1.npy day-2.npy
    swath repair group.zarr X=x.npy y=y.npy
    """
    arrays = _arrays(store)
    for name, source in _by_name(sources, arrays).items():
        a = arrays[name]
        mended = a.repair(source, timeout=timeout, memory_limit=memory_limit)
        click.echo(f"{a.url}: " + ("mended" if mended else "nothing to mend"))
        for damage in mended:
            click.echo(f"  {damage.path}: rows {damage.rows[0]} to {damage.rows[1] - 1}")


@cli.command()
@click.argument("url")
@_starts
@_random
@_seed
@_window
def plan(url: str, starts: str | None, n_random: int | None, seed: int, window: int | None) -> None:
    """Say what a gather would cost, without reading.

    \b
    swath plan recording.zarr --random 10000
    """
    a = swath.open(url)
    click.echo(str(a.plan(_choose_starts(a, starts, n_random, seed, window), window=window)))


@cli.command()
@click.argument("url")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@_starts
@_random
@_seed
@_window
@_memory_limit
@click.option("--verify", type=click.Choice(get_args(Verify)), default="always", show_default=True, help="Checksums.")
def gather(
    url: str,
    out: Path,
    starts: str | None,
    n_random: int | None,
    seed: int,
    window: int | None,
    memory_limit: str | None,
    verify: Verify,
) -> None:
    """Gather windows into the .npy file OUT.

    The batch may be larger than memory.

    \b
    swath gather recording.zarr batch.npy --starts 3,500,7
    """
    if out.suffix != ".npy" or out.exists():
        raise click.UsageError(f"{out} is to be a new .npy file" + (", but it exists." if out.exists() else "."))
    a = swath.open(url)
    chosen = _choose_starts(a, starts, n_random, seed, window)
    shape = a.plan(chosen, window=window).batch_shape
    partial = out.with_suffix(".npy.part")
    try:
        batch = np.lib.format.open_memmap(partial, "w+", a.dtype, shape)
        if batch.size:
            a.gather(chosen, window=window, out=batch, memory_limit=memory_limit, verify=verify)
        batch.flush()
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    click.echo(f"{out}: {shape} {a.dtype}, {format_bytes(batch.nbytes)}")


@cli.command()
@click.argument("url", metavar="STORE")
@click.argument("target")
@click.option("--rows", metavar="A:B", help="Rows from A to B - 1, as in Python; all by default.")
@click.option("--chunk-rows", type=int, help="Rows of a chunk, in HDF5 (else contiguous) and Zarr.")
@_memory_limit
@click.option("--overwrite", is_flag=True, help="Replace what is there, once the new one is whole.")
def export(url: str, target: str, rows: str | None, **options: Any) -> None:
    """Write STORE, or some of its rows, to TARGET.

    TARGET is FILE.h5::NAME, a .npy file, a .zarr folder, or the bytes alone in a .raw, .bin or .dat file.

    \b
    swath export recording.zarr recording.h5::signal
    swath export recording.zarr first.npy --rows 0:1000
    """
    a = swath.open(url)
    swath.export(a, target, rows=None if rows is None else _slice(rows), **options)
    click.echo(f"{target}: {a.dtype} rows of shape {a.shape[1:]}")


@cli.command()
@click.argument("url")
@click.option("--windows", type=int, default=10_000, show_default=True)
@_seed
@_window
@_memory_limit
def bench(url: str, windows: int, seed: int, window: int | None, memory_limit: str | None) -> None:
    """Measure gathers of an array on this machine.

    Cold and warm, of a Zarr array beside zarr-python's loop.
    """
    from rich.console import Console
    from rich.table import Table

    from swath.memory import parse_bytes

    a = swath.open(url)
    rows = window or a.window
    a.plan(random_starts(len(a), windows, rows, seed) if rows <= len(a) else [], window=rows)  # refuses what cannot be
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    table = Table(
        title=f"{windows:,} random windows of {rows} rows from {a.shape} {a.dtype}, {a.codec}: {a.url}",
        title_justify="left",
    )
    for name in ("way", "windows", "cold GB/s", "warm GB/s", "peak memory"):
        table.add_column(name, justify="left" if name == "way" else "right")
    # zarr-python takes about a thousandth of a second and more for each window: a tenth of them tells its rate.
    ways: dict[str, int] = {
        "swath gather": windows,
        "swath compute": windows,
    }
    if Path(a.url).is_dir():
        ways["zarr-python loop"] = max(1, windows // 10)
    for way, n in ways.items():
        cold, warm = (measure(Job(way, a.url, n, rows, seed, is_cold, limit)) for is_cold in (True, False))
        rates = (f"{result.gigabytes_a_second:.2f}" for result in (cold, warm))
        table.add_row(way, f"{n:,}", *rates, format_bytes(max(cold.peak_bytes, warm.peak_bytes)))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _arrays(url: str) -> Mapping[str, RowArray]:
    """The arrays of a group by name, or the one array that there is, without a name."""
    try:
        return swath.open_group(url)
    except StoreError:
        return {"": swath.open(url)}


def _by_name(sources: tuple[str, ...], arrays: Mapping[str, RowArray]) -> dict[str, list[str]]:
    """Sources of each array."""
    if "" in arrays:
        return {"": list(sources)} if sources else {}
    named: dict[str, list[str]] = {}
    for word in sources:
        name, separator, source = word.partition("=")
        if not separator or name not in arrays:
            raise click.UsageError(f"{word!r} is for none of the arrays {', '.join(arrays)}. Give NAME=SOURCE.")
        named.setdefault(name, []).append(source)
    return named


def _info(a: RowArray) -> dict[str, Any]:
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


def _print_info(a: RowArray) -> None:
    facts = _info(a)
    facts["bytes"] = format_bytes(a.nbytes)
    facts["shape"] = a.shape
    amplification = (a.chunk_rows + a.window - 1) / a.window
    if a.codec in get_args(CodecName):
        facts["chunk_rows"] = f"{a.chunk_rows} ({amplification:.2f} bytes read for each byte wanted at random)"
    for name, value in facts.items():
        click.echo(f"{name:<11} {value}")


def _choose_starts(
    a: RowArray, starts: str | None, n_random: int | None, seed: int, window: int | None
) -> NDArray[Any]:
    if (starts is None) == (n_random is None):
        raise click.UsageError("Give either --starts or --random.")
    if n_random is not None:
        rows = a.window if window is None else window
        # A window that does not exist in the array is refused by the call itself, with its own message.
        return random_starts(max(len(a), rows), n_random, rows, seed)
    path = Path(str(starts))
    if path.suffix == ".npy" and path.exists():
        chosen: NDArray[Any] = np.load(path, allow_pickle=False)
        return chosen
    text = path.read_text() if path.is_file() else str(starts)
    return np.array(_integers(text, "--starts"), np.int64)


def _slice(text: str) -> slice:
    match = re.fullmatch(r"([+-]?\d+)?:([+-]?\d+)?", text, re.ASCII)
    if match is None:
        raise OptionError(f"--rows is {text[:60]!r}. Give two whole numbers with a colon between them, such as 0:1000.")
    return slice(*(None if part is None else int(part) for part in match.groups()))


def _integers(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise StartsError(
            f"{option} is {text[:60]!r}. Give whole numbers with commas between them, or a file of them."
        ) from None


if __name__ == "__main__":
    main()
