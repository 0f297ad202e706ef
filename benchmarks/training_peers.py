"""The ways that `training` compares, each a source of batches for one training loop; run in a process of its own.

All read the same windows, at random starts, but for xbatcher. Each is used as its own documentation, or where it has none the forums
of PyTorch, have it:

- h5py, numpy.memmap, zarr-python: a map-style dataset whose item is a window, opened by each worker when it is first asked, and the
  default collation. The memmap is told by MADV_RANDOM not to read ahead, or is not. zarr-python also gives all rows of a batch
  in one ``oindex``, by ``__getitems__``, and that by the fused pipeline that 3.4 offers for local files.
- xbatcher: `MapDataset` over a `BatchGenerator`, shuffled, its workers by forkserver, as in the demonstration that its issue 214 points
  to. It has the windows of a regular grid only, so its starts are random multiples of the window. The Zarr array is opened without
  dask: each window is one chunk, so a graph has nothing to do.
- annbatch: a `Loader` with the zarrs pipeline, which its README calls essential, and a sampler of our starts, which reads some
  batches ahead of need; it advises against workers. It gives rows, which are windows when they are reshaped.

A run: open, and take batches untimed (the first is the time to the first batch), then one epoch for each model, of windows of its own.
"""

import importlib
import json
import mmap
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

import swath
from swath.errors import SwathError
from swath.loaders.torch import Batches, Windows, collate
from swath.measure import drop_cache, random_starts, wait_to_begin
from swath.windows import IntArray

PROGRAM = str(Path(__file__))
_WARM_UP = 4
"""Batches: two workers have two each in flight."""
_PAGE_BYTES = 4096
_FEATURES = 64


@dataclass(frozen=True, slots=True)
class Loop:
    """One way, one target, one number of workers. JSON values only: it travels to another process."""

    way: str
    target: str
    workers: int
    window: int
    batch_size: int
    batches: int
    """Of each epoch."""
    seed: int
    cold: bool
    most_s: float
    """An epoch ends after so many seconds, at the next batch."""
    check_against: str | None = None
    """``file.h5::dataset`` with which every batch is compared, and nothing is timed."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the loop over an epoch took."""

    samples: int
    seconds: float
    waited_s: float
    """In ``next`` of the iterator, and in making it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed."""

    first_batch_s: float
    """From opening the target to the first batch, without imports."""
    epochs: dict[str, Epoch]
    """By the name of the model."""


Feed = Callable[[range], Iterator[Any]]
"""Batches as tensors, from their numbers."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to feed a loop: from a target, and (batches, batch_size) starts."""

    open: Callable[[Loop, IntArray], Feed]
    imports: tuple[str, ...] = ()
    grid: bool = False
    """Whether starts are multiples of the window."""
    workers: bool = True
    """Whether it can have workers."""


class _Schedule:
    """The batch sampler of a loader: positions of the starts of the batches that are on now."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.now = range(0)

    def __len__(self) -> int:
        return len(self.now)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.now:
            yield list(range(batch * self._batch_size, (batch + 1) * self._batch_size))


class _Slices:
    """A map-style dataset of windows, as the forums write it."""

    def __init__(self, open_rows: Callable[[], Any], loop: Loop, starts: IntArray) -> None:
        self._open = open_rows
        self._rows: Any = None
        self._starts = starts.reshape(-1)
        self._window = loop.window

    def __len__(self) -> int:
        return self._starts.size

    def __getitem__(self, position: int) -> NDArray[Any]:
        if self._rows is None:
            self._rows = self._open()
        start = int(self._starts[position])
        window: NDArray[Any] = self._rows[start : start + self._window]
        return window


class _Oindex(_Slices):
    """A map-style dataset that reads the rows of a batch in one call."""

    def __getitems__(self, positions: list[int]) -> NDArray[Any]:
        if self._rows is None:
            self._rows = self._open()
        rows = (self._starts[positions][:, None] + np.arange(self._window)).reshape(-1)
        batch: NDArray[Any] = self._rows.oindex[rows].reshape(len(positions), self._window, -1)
        return batch


def swath_in_the_loop(loop: Loop, starts: IntArray) -> Feed:
    a = swath.open(loop.target)

    def feed(batches: range) -> Iterator[Any]:
        some = starts[batches].reshape(-1)
        return map(torch.from_numpy, a.batches(loop.batch_size, starts=some, seed=None, window=loop.window))

    return feed


def swath_windows(loop: Loop, starts: IntArray) -> Feed:
    dataset = Windows(swath.open(loop.target), starts=starts.reshape(-1), window=loop.window)
    return _loader(loop, dataset, collate_fn=collate)


def swath_batches(loop: Loop, starts: IntArray) -> Feed:
    """Its workers start anew for each epoch, in the time: an iterable dataset is told its windows once."""
    a = swath.open(loop.target)

    def feed(batches: range) -> Iterator[Any]:
        some = starts[batches].reshape(-1)
        dataset = Batches(a, loop.batch_size, starts=some, seed=None, window=loop.window)
        return iter(DataLoader(dataset, batch_size=None, num_workers=loop.workers))

    return feed


def slices(open_rows: Callable[[str], Any], loop: Loop, starts: IntArray) -> Feed:
    return _loader(loop, _Slices(partial(open_rows, loop.target), loop, starts))


def zarr_oindex(pipeline: str, loop: Loop, starts: IntArray) -> Feed:
    import zarr

    zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}CodecPipeline"})
    return _loader(loop, _Oindex(partial(_open_zarr, loop.target), loop, starts), collate_fn=torch.from_numpy)


def by_xbatcher(loop: Loop, starts: IntArray) -> Feed:
    import xarray
    from xbatcher import BatchGenerator
    from xbatcher.loaders.torch import MapDataset

    rows = xarray.open_zarr(loop.target, consolidated=False, chunks=None)["A"]
    windows = BatchGenerator(rows, {"row": loop.window, "column": rows.sizes["column"]})
    context = "forkserver" if loop.workers else None
    places = starts // loop.window  # its items are numbered as they lie

    class Shuffled(_Schedule):
        def __iter__(self) -> Iterator[list[int]]:
            for batch in self.now:
                yield places[batch].tolist()

    return _loader(loop, MapDataset(windows), Shuffled(loop.batch_size), multiprocessing_context=context)


def by_annbatch(at_once: int, loop: Loop, starts: IntArray) -> Feed:
    import zarr
    from annbatch import Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    array = _open_zarr(loop.target)

    def feed(batches: range) -> Iterator[Any]:
        loader = Loader(batch_sampler=_Requests(starts[batches], loop.window, at_once), to="torch").add_dataset(array)
        return (batch["X"].reshape(-1, loop.window, array.shape[1]) for batch in loader)

    return feed


class _Requests:
    """A sampler of annbatch: some batches are read at once, and come one after another."""

    def __init__(self, starts: IntArray, window: int, at_once: int) -> None:
        self._starts, self._window, self._at_once = starts, window, at_once

    def sample(self, _: int) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self._starts), self._at_once):
            some = self._starts[first : first + self._at_once]
            rows = np.arange(some.size * self._window)
            yield {
                "requests": [slice(s, s + self._window) for s in some.reshape(-1).tolist()],
                "splits": np.split(rows, len(some)),
            }


def _loader(loop: Loop, dataset: Any, schedule: _Schedule | None = None, **options: Any) -> Feed:
    schedule = _Schedule(loop.batch_size) if schedule is None else schedule  # an empty one is false
    alive = loop.workers > 0
    loader = DataLoader(dataset, batch_sampler=schedule, num_workers=loop.workers, persistent_workers=alive, **options)

    def feed(batches: range) -> Iterator[Any]:
        schedule.now = batches
        return iter(loader)

    return feed


def _open_h5(target: str) -> Any:
    path, _, name = target.partition("::")
    return h5py.File(path, "r")[name]


def _open_npy(advice: int | None, target: str) -> Any:
    # Of a mapping that cannot be written torch warns. Nothing is written to the file: "c" is copy on write.
    mapped = np.load(target, mmap_mode="c")
    if advice is not None:
        mapped.base.madvise(advice)
    return mapped


def _open_zarr(target: str) -> Any:
    import zarr

    return zarr.open_array(f"{target}/A", mode="r")


WAYS: dict[str, Way] = {
    "swath, in the loop": Way(swath_in_the_loop, workers=False),
    "swath, Windows in a DataLoader": Way(swath_windows),
    "swath, Batches in a DataLoader": Way(swath_batches),
    "h5py": Way(partial(slices, _open_h5)),
    "memmap": Way(partial(slices, partial(_open_npy, None))),
    "memmap, MADV_RANDOM": Way(partial(slices, partial(_open_npy, mmap.MADV_RANDOM))),
    "zarr-python": Way(partial(slices, _open_zarr), ("zarr",)),
    "zarr-python, oindex": Way(partial(zarr_oindex, "Batched"), ("zarr",)),
    "zarr-python, oindex, fused": Way(partial(zarr_oindex, "Fused"), ("zarr",)),
    "xbatcher": Way(by_xbatcher, ("zarr", "xarray", "xbatcher.loaders.torch"), grid=True),
    "annbatch, 4 at once": Way(partial(by_annbatch, 4), ("zarr", "zarrs", "annbatch"), workers=False),
    "annbatch, 32 at once": Way(partial(by_annbatch, 32), ("zarr", "zarrs", "annbatch"), workers=False),
}


def touch(batch: Any) -> None:
    """Look at each page, so that those of a mapping are read."""
    batch.reshape(-1)[:: _PAGE_BYTES // batch.element_size()].sum().item()


def linear(columns: int) -> Callable[[Any], None]:
    """A small model, on one thread: a step of it takes as long for every way."""
    layer = torch.nn.Linear(columns, _FEATURES)

    def step(batch: Any) -> None:
        layer.zero_grad()
        layer(batch.float()).mean(dim=1).square().mean().backward()
        with torch.no_grad():  # SGD by hand: torch.optim would load the compiler of torch, seconds for each process
            for parameter in layer.parameters():
                parameter -= 1e-6 * parameter.grad

    return step


def run(loop: Loop) -> Outcome:
    """Run a loop in this process."""
    way, (n_rows, columns) = WAYS[loop.way], _shape(loop)
    models: Mapping[str, Callable[[Any], None]] = {"none": touch, "linear": linear(columns)}
    batches = _WARM_UP + len(models) * loop.batches
    starts = random_starts(n_rows, batches * loop.batch_size, loop.window, loop.seed).reshape(batches, -1)
    if way.grid:
        starts -= starts % loop.window
    if loop.cold:
        drop_cache(loop.target)
    begin = time.perf_counter()
    feed = way.open(loop, starts)
    warm_up = feed(range(_WARM_UP))
    next(warm_up)
    first_batch_s = time.perf_counter() - begin
    for _ in warm_up:
        pass
    epochs = {}
    for i, (name, model) in enumerate(models.items()):
        if loop.cold:
            drop_cache(loop.target)
        first = _WARM_UP + i * loop.batches
        epochs[name] = _epoch(partial(feed, range(first, first + loop.batches)), model, loop.most_s)
    return Outcome(first_batch_s, epochs)


def check(loop: Loop) -> int:
    """Compare batches with the windows of the source; return how many there were."""
    way, (n_rows, _) = WAYS[loop.way], _shape(loop)
    starts = random_starts(n_rows, loop.batches * loop.batch_size, loop.window, loop.seed).reshape(loop.batches, -1)
    if way.grid:
        starts -= starts % loop.window
    feed, rows, seen = way.open(loop, starts), _open_h5(str(loop.check_against)), 0
    for batch, own in zip(feed(range(loop.batches)), starts, strict=True):
        wanted = np.stack([rows[s : s + loop.window] for s in own.tolist()])
        if batch.shape != wanted.shape or batch.numpy().tobytes() != wanted.tobytes():
            raise SwathError(f"Batch {seen} of {loop.way!r} with {loop.workers} workers is not what the source has.")
        seen += 1
    return seen


def _epoch(feed: Callable[[], Iterator[Any]], model: Callable[[Any], None], most_s: float) -> Epoch:
    samples, waited_s = 0, 0.0
    done: Any = object()
    begin = before = time.perf_counter()
    iterator = feed()
    while True:
        batch = next(iterator, done)
        now = time.perf_counter()
        waited_s += now - before
        if batch is done:
            break
        model(batch)
        samples += len(batch)
        before = time.perf_counter()
        if before - begin > most_s:
            break
    return Epoch(samples, time.perf_counter() - begin, waited_s)


def _shape(loop: Loop) -> tuple[int, int]:
    """Rows and columns, which each way's own library would say: no part of the time."""
    path = loop.target.partition("::")[0]
    a = swath.open(f"{path}/A" if (Path(path) / "A").is_dir() else loop.target)
    return a.shape[0], a.shape[1]


def answer(loop: Loop, at_begin: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """What a process says: an `Outcome`, or how many batches were right."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in WAYS[loop.way].imports:
        importlib.import_module(name)
    at_begin()
    return {"checked": check(loop)} if loop.check_against else asdict(run(loop))


if __name__ == "__main__":
    print(json.dumps(answer(Loop(**json.loads(sys.argv[1])), wait_to_begin)), flush=True)
