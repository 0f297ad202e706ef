"""The codec is chosen by what a sample shows, and the choice is kept, shown and explained."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import assert_same, expected
from servers import Server

import swath
from swath.errors import OptionError
from swath.layout import CodecName, Location, Sample, choose_chunk_rows, choose_codec
from swath.sample import sample_codecs
from swath.sources import open_source

DISK = Location(read_rate=1.2e9, cached_rate=5e9, cache_bytes=2**33, cores=2)
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(2000, 500))
COUNTS = RNG.poisson(0.05, (2000, 1000)).astype("i4")


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.ingestion.machine_bytes", lambda: 2**20)


@pytest.mark.parametrize(("rows", "codec"), [(NOISE, "raw"), (COUNTS, "lz4")], ids=["noise", "counts"])
@pytest.mark.usefixtures("little_memory")
def test_an_array_beyond_the_memory_gets_the_codec_of_its_sample(
    tmp_path: Path, rows: NDArray[Any], codec: str
) -> None:
    a = swath.ingest(rows, tmp_path / "a")
    assert a.codec == codec
    assert a.reason.startswith(f"{codec}: the array is")
    assert "times smaller" in a.reason
    assert swath.open(tmp_path / "a").reason == a.reason
    assert_same(a.gather([3, 1900]), expected(rows, [3, 1900], 16))


def test_an_array_that_fits_in_memory_is_raw(tmp_path: Path) -> None:
    a = swath.ingest(COUNTS, tmp_path / "a")
    assert (a.codec, a.reason) == ("raw", "raw: the array fits in memory, from where no codec gathers faster")
    assert swath.ingest(COUNTS, tmp_path / "b", codec="zstd").reason == "zstd: as asked"


@pytest.mark.usefixtures("little_memory")
def test_an_interrupted_ingest_keeps_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "rows.npy", COUNTS)
    written: list[str] = []
    put = swath.storage.LocalFolder.put

    def fail_at_the_third(folder: Any, key: str, buffers: Any) -> None:
        if key.startswith("c."):
            written.append(key)
            if len(written) > 2:
                raise OSError("gone")
        put(folder, key, buffers)

    monkeypatch.setattr("swath.storage.LocalFolder.put", fail_at_the_third)
    with pytest.raises(OSError, match="gone"):
        swath.ingest(tmp_path / "rows.npy", tmp_path / "a", shard_rows=160)
    monkeypatch.setattr("swath.storage.LocalFolder.put", put)
    # By now the machine would choose otherwise.
    monkeypatch.setattr("swath.ingestion.sample_codecs", lambda source, window, most_rate: {})
    a = swath.ingest(tmp_path / "rows.npy", tmp_path / "a", shard_rows=160)
    assert a.codec == "lz4"
    assert_same(a.gather([3, 1900]), expected(COUNTS, [3, 1900], 16))


def test_a_sample_tells_noise_from_counts() -> None:
    noise, counts = (sample_codecs(open_source(rows), 16) for rows in (NOISE, COUNTS))
    for codec in ("lz4", "zstd"):
        assert noise[codec].ratio < 1.2
        assert counts[codec].ratio > 5
        assert counts[codec].decode_rate > 1e7


def test_a_source_in_order_is_sampled_at_its_beginning() -> None:
    source = open_source(COUNTS)
    starts = []

    class InOrder:
        shape, dtype, in_order = source.shape, source.dtype, True

        def read_into(self, start: int, out: NDArray[Any]) -> None:
            starts.append(start)
            source.read_into(start, out)

    assert sample_codecs(InOrder(), 16)["lz4"].ratio > 5  # type: ignore[arg-type]
    assert starts == [0]


@pytest.mark.parametrize("shape", [(1, 3), (3,), (5, 2_000_000)], ids=str)
def test_few_rows_or_large_ones_are_a_sample(shape: tuple[int, ...]) -> None:
    assert sample_codecs(open_source(np.zeros(shape, "u1")), 16)["lz4"].ratio > 0


def test_a_codec_must_be_worth_it() -> None:
    big = 10**8
    assert choose_codec(16, big, 16_000, {"lz4": Sample(1.05, 1e10)}, DISK)[0] == "raw"
    assert choose_codec(16, big, 16_000, {"lz4": Sample(4, 5e9), "zstd": Sample(6, 1e9)}, DISK)[0] == "lz4"
    assert choose_codec(16, big, 16_000, {"zstd": Sample(6, 1e8)}, DISK)[0] == "raw"
    chosen, why = choose_codec(16, big, 16_000, {"lz4": Sample(4, 5e9)}, DISK)
    assert chosen == "lz4"
    assert "the array is 1.9e+02 times the memory" in why
    assert "lz4 1." in why


def test_over_a_network_fewer_bytes_win_although_the_array_fits_in_memory() -> None:
    samples: dict[CodecName, Sample] = {"lz4": Sample(1.5, 5e9), "zstd": Sample(3, 1e9)}
    far = replace(DISK, most_rate=1.25e8)
    assert choose_codec(16, 1000, 16_000, samples, DISK)[0] == "raw"
    chosen, why = choose_codec(16, 1000, 16_000, samples, far)
    assert chosen == "zstd"
    assert "a network brings 0.125 GB/s" in why
    assert "raw 0.12, lz4 0.16 (1.5 times smaller), zstd 0.32" in why
    assert choose_codec(16, 1000, 16_000, {"lz4": Sample(1.05, 1e10)}, far)[0] == "raw"


def test_a_far_store_is_laid_out_for_its_network(tmp_path: Path, moto: Server) -> None:
    def ingest(rows: NDArray[Any], name: str, **options: Any) -> swath.RowArray:
        return swath.ingest(rows, f"{moto.url}/laid-out/{name}", storage_options=moto.storage_options, **options)

    far = [ingest(rows, str(k)) for k, rows in enumerate((NOISE, COUNTS))]
    near = [swath.ingest(rows, tmp_path / str(k)) for k, rows in enumerate((NOISE, COUNTS))]
    assert [(a.codec, a.chunk_rows) for a in near] == [("raw", 8), ("raw", 8)]
    assert (far[0].codec, far[0].chunk_rows) == ("raw", 2)
    assert far[1].codec in ("lz4", "zstd")
    for a, rows in zip(far, (NOISE, COUNTS)):
        assert a.plan([3, 1900]).reach.is_remote
        assert_same(a.gather([3, 1900]), expected(rows, [3, 1900], 16))
    # What is asked is taken.
    asked = ingest(COUNTS, "asked", codec="raw", chunk_rows=5)
    assert (asked.codec, asked.chunk_rows) == ("raw", 5)


def test_chunks_that_are_decoded_are_larger() -> None:
    for row_bytes in (2000, 16_000):
        assert choose_chunk_rows(16, row_bytes, "lz4") > choose_chunk_rows(16, row_bytes, "raw")


@pytest.mark.parametrize("codec", ["snappy", None, "Raw"], ids=repr)
def test_an_unknown_codec_is_refused(tmp_path: Path, codec: Any) -> None:
    with pytest.raises(OptionError, match="'raw', 'lz4', 'zstd'"):
        swath.ingest(COUNTS, tmp_path / "a", codec=codec)
    assert set(get_args(CodecName)) == {"raw", "lz4", "zstd"}
