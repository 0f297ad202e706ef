"""Arrays whose metadata are broken, by bytes or by values; lying, with their checksum made right again; or no file at all.

A try is a copy of a sound array, one file of which is mutated as its seed says. It is opened and read through the public calls,
and some through the command line. What is asked of each library is the same, so that answers can be compared by `answer`.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from click.testing import CliRunner
from numpy.typing import NDArray

import swath
import swath.check
import swath.computing
import swath.foreign
import swath.ingestion
import swath.lazy
from hostile.corpora import Corpus
from hostile.harness import Refused, Wrong
from hostile.mutations import Rng, mutate_bytes, mutate_json, pick
from swath.checksum import crc32c
from swath.cli import cli

N_ROWS, WINDOW = 95, 5
ROWS = np.random.default_rng(0).integers(0, 99, (N_ROWS, 6)).astype("i4")
LABELS = np.arange(N_ROWS, dtype="f8")

# What one gather may take; and what zarr-python, which has no limit, is asked for at most.
_MEMORY_LIMIT = 50 * 10**6

OURS = ["raw", "zstd", "group"]
_MEMBERS = {"group": "X", "v3 group": "x", "v2 group": "x"}


def write_sound(folder: Path) -> None:
    """The arrays that are broken."""
    own: dict[str, Any] = {"window": WINDOW, "chunk_rows": 4, "shard_rows": 40, "progress": False}
    for codec in ("raw", "zstd"):
        a = swath.ingest(ROWS[:70], folder / codec, codec=codec, **own)
        a.append(ROWS[70:], progress=False)
    swath.ingest_group({"X": ROWS, "y": LABELS}, folder / "group", codec="raw", **own)
    options: dict[str, Any] = {"chunks": (10, 6), "attributes": {"a": [1, {"b": "c"}]}}
    zarr.create_array(folder / "v3", data=ROWS, **options)
    zarr.create_array(folder / "transposed", data=ROWS, filters=[zarr.codecs.TransposeCodec(order=(1, 0))], **options)
    zarr.create_array(folder / "sharded", data=ROWS, shards=(40, 6), **options)
    zarr.create_array(folder / "v2", data=ROWS, zarr_format=2, **options)
    zarr.create_array(folder / "v2 lz4", data=ROWS, zarr_format=2, filters=None, compressors=_lz4(), **options)
    for name, version in (("v3 group", 3), ("v2 group", 2)):
        group = zarr.create_group(folder / name, zarr_format=version)  # type: ignore[arg-type]
        group.create_array("x", data=ROWS, chunks=(10, 6))
        group.create_array("y", data=LABELS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of consolidated metadata, which are no part of version 3
            zarr.consolidate_metadata(folder / name)


def _lz4() -> Any:
    import numcodecs

    return numcodecs.LZ4()


# --- What is mutated, and how


def _metadata_of(url: Path, rng: Rng) -> Path:
    """One of the files of metadata of an array or a group."""
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    found = sorted(file for name in names for file in url.rglob(name))
    return pick(rng, found)


def reseal(document: Any) -> Any:
    """Metadata of ours whose checksum is right: a liar, and not only broken."""
    own = {name: value for name, value in document["attributes"]["swath"].items() if name != "crc32c"}
    sealed = {**document, "attributes": own}
    own["crc32c"] = crc32c(json.dumps(sealed, sort_keys=True).encode())
    document["attributes"]["swath"] = own
    return document


def _lie(content: bytes, rng: Rng) -> bytes:
    document = json.loads(content)
    within = pick(rng, [("attributes", "swath"), ("attributes", "swath"), ()])
    for _ in range(20):
        changed = mutate_json(document, rng, within=within)
        try:
            return json.dumps(reseal(json.loads(changed)), indent=2).encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # nothing that a checksum could be made of
    return content


def _lie_in_group(content: bytes, rng: Rng) -> bytes:
    """The metadata of an array in those of its group."""
    document = json.loads(content)
    inline = document["consolidated_metadata"]["metadata"]
    name = pick(rng, list(inline))
    inline[name] = json.loads(_lie(json.dumps(inline[name]).encode(), rng))
    return json.dumps(reseal(document), indent=2).encode()


def no_file(path: Path, rng: Rng) -> str:
    """Something else in the place of a file."""
    kind = pick(
        rng, ["empty", "missing", "giant", "folder", "fifo", "loop", "zeros", "noise", "utf-16", "bom", "null", "list"]
    )
    content = path.read_bytes()
    path.unlink()
    match kind:
        case "empty":
            path.touch()
        case "giant":
            path.touch()
            os.truncate(path, 2**36)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "zeros":
            path.symlink_to("/dev/zero")
        case "noise":
            path.write_bytes(rng.bytes(len(content)))
        case "utf-16":
            path.write_bytes(content.decode().encode("utf-16"))
        case "bom":
            path.write_bytes(b"\xef\xbb\xbf" + content)
        case "null":
            path.write_bytes(b"null")
        case "list":
            path.write_bytes(b"[" + content + b"]")
    return kind


def make(folder: str, kind: str, seed: int) -> tuple[Path, str]:
    """The array of a seed, and what was done to it. The last one of this process goes."""
    rng = np.random.default_rng([seed, 9])
    url = Path(folder) / f"try-{os.getpid()}"
    shutil.rmtree(url, ignore_errors=True)
    shutil.copytree(Path(folder) / kind, url)
    path = _metadata_of(url, rng)
    ways = ["bytes", "values", "values", "no file"] + ["lie", "lie", "lie"] * (kind in OURS)
    way = "no file" if rng.random() < 0.04 else pick(rng, [way for way in ways if way != "no file"])
    if way == "no file":
        return url, no_file(path, rng)
    content = path.read_bytes()
    if way == "bytes":
        broken = mutate_bytes(content, rng)
    elif way == "values":
        broken = mutate_json(json.loads(content), rng)
    elif kind == "group" and rng.random() < 0.7:
        path = url / "zarr.json"
        broken = _lie_in_group(path.read_bytes(), rng)
    else:
        broken = _lie(content, rng)
    path.write_bytes(broken)
    return url, way


# --- What is asked


def answer(rows: NDArray[Any], shape: tuple[int, ...]) -> str:
    """What two libraries can be compared by."""
    digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:16]
    return f"{shape} {rows.dtype.newbyteorder('=')} {digest}"


def _starts(n_rows: int, window: int) -> list[int]:
    return [0, (n_rows - window) // 2, n_rows - window]


def through_swath(folder: str, kind: str, seed: int) -> Callable[[], str]:
    """Open, plan, gather, and for some seeds more."""
    url, _ = make(folder, kind, seed)
    member = _MEMBERS.get(kind, "")

    def call() -> str:
        told = _read_ours(url, kind) if kind == "group" and seed % 3 == 0 else read_by_swath(url / member)
        if kind in OURS:
            reads_ours(told)
        match seed % 10:
            case 1:
                _call_command(["info", str(url / member)])
            case 2:
                _call_command(["gather", str(url / member), f"{url}-out.npy", "--starts", "0,3", "--window", "2"])
            case 3 if kind in OURS:
                swath.open(url / member).verify(progress=False, memory_limit=_MEMORY_LIMIT)
            case 4 | 5 if kind in OURS:
                _append(url, kind)
            case 6:
                swath.compute(swath.open(url / member).windows([0, 1], window=2), memory_limit=_MEMORY_LIMIT)
            case 7:
                next(swath.open(url / member).batches(4, window=2, memory_limit=_MEMORY_LIMIT, prefetch=0))
            case 8:
                repr(swath.open(url))
        return told

    return call


def read_by_swath(url: Path) -> str:
    a = swath.open(url)
    if len(a.segments) and a.segments[-1, 1] != len(a):
        raise Wrong(f"segments to {a.segments[-1]}, rows {len(a)}")
    window = min(WINDOW, len(a))
    starts = _starts(len(a), window)
    str(a.plan(starts, window=window))
    repr(a)
    return answer(a.gather(starts, window=window, memory_limit=_MEMORY_LIMIT), a.shape)


def _read_ours(url: Path, kind: str) -> str:
    group = swath.open_group(url)
    repr(group)
    group.segments  # noqa: B018
    batch = group.gather([0, 3], memory_limit=_MEMORY_LIMIT, window=2)
    if "y" in batch and not np.array_equal(batch["y"], [[0, 1], [3, 4]]):
        raise Wrong("y of the group")
    return read_by_swath(url / "X")


def reads_ours(told: str) -> None:
    """A store says what it was made of, or nothing: it may say that it is shorter, since it was once."""
    n_rows = int(told[1:].partition(",")[0])
    if n_rows > N_ROWS:
        raise Wrong(f"rows that were never written: {told}")
    window = min(WINDOW, n_rows)
    wanted = answer(np.stack([ROWS[s : s + window] for s in _starts(n_rows, window)]), (n_rows, 6))
    if told != wanted:
        raise Wrong(f"{told}, and not {wanted}")


def _append(url: Path, kind: str) -> None:
    if kind == "group":
        longer = swath.open_group(url).append({"X": ROWS[:3], "y": LABELS[:3]}, progress=False, timeout=0)["X"]
    else:
        longer = swath.open(url).append(ROWS[:3], progress=False, timeout=0)
    if not np.array_equal(longer.gather([len(longer) - 3], window=3)[0], ROWS[:3]):
        raise Wrong("what was appended")


def _call_command(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    Path(arguments[2] if len(arguments) > 2 else "").unlink(missing_ok=True) if arguments[0] == "gather" else None
    if isinstance(result.exception, SystemExit):
        if result.exit_code not in (0, 1, 2):
            raise Wrong(f"exit code {result.exit_code}")
    elif result.exception is not None:
        raise result.exception


# What those who use zarr-python would expect of an array that is no good.
_OF_ZARR = (zarr.errors.BaseZarrError, ValueError, TypeError, KeyError, IndexError, OSError)


def through_zarr(folder: str, kind: str, seed: int) -> Callable[[], str]:
    """Open and read the same windows."""
    url, _ = make(folder, kind, seed)

    return lambda: read_by_zarr(url / _MEMBERS.get(kind, ""))


def read_by_zarr(url: Path) -> str:
    """What `read_by_swath` gives, by zarr-python."""
    try:
        array = zarr.open_array(url, mode="r")
        if not array.shape:
            raise Refused("a single value")
        n_rows = array.shape[0]
        window = min(WINDOW, n_rows)
        n_bytes = 3 * window * int(np.prod([float(n) for n in array.shape[1:]])) * array.dtype.itemsize
        if n_bytes > _MEMORY_LIMIT:
            raise Refused("a window that is too large")
        rows = [np.asarray(array[s : s + window]) for s in _starts(n_rows, window)]
        return answer(np.stack(rows), array.shape)
    except _OF_ZARR as error:
        raise Refused(f"{type(error).__name__}: {error}"[:300]) from None


def _corpus(kind: str, *, ours: bool) -> Corpus:
    return Corpus(
        name=f"metadata, {kind}",
        kind=kind,
        prepare=write_sound,
        entries={"swath": "hostile.metadata:through_swath", "zarr-python": "hostile.metadata:through_zarr"},
        # What a foreign array says it holds is what zarr-python makes of it; a store of ours is held to its rows.
        oracle=None if ours else "zarr-python",
    )


FOREIGN = ["v3", "transposed", "sharded", "v2", "v2 lz4", "v3 group", "v2 group"]
CORPORA = [_corpus(kind, ours=True) for kind in OURS] + [_corpus(kind, ours=False) for kind in FOREIGN]
