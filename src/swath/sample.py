"""What do the codecs make of these rows?

A few chunks from some places of the source are compressed and decoded, which takes some milliseconds: the ratio and the rate
by which `swath.layout.choose_codec` decides.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from swath.decoder import make_blosc
from swath.layout import CodecName, Sample, choose_chunk_rows
from swath.sources import Source

# Enough that neither one odd place nor one interruption decides; little against what is then ingested.
_PLACES = 4
_BYTES_A_PLACE = 2**20
_DECODES = 10


def sample_codecs(source: Source, window: int, most_rate: float = math.inf) -> dict[CodecName, Sample]:
    """Ratio and decode rate of each codec that compresses, on rows of ``source``, in the chunks that they would have.

    A source that is best read in order is sampled at its beginning alone.
    """
    n_rows, itemsize = source.shape[0], source.dtype.itemsize
    row_bytes = itemsize * math.prod(source.shape[1:])
    a_place = min(n_rows, max(1, _BYTES_A_PLACE // row_bytes))
    places = 1 if source.in_order or row_bytes > _BYTES_A_PLACE else _PLACES
    starts = sorted({int(start) for start in np.linspace(0, n_rows - a_place, places)})
    samples: dict[CodecName, Sample] = {}
    blocks = []
    for start in starts:
        rows = np.empty((a_place, *source.shape[1:]), source.dtype)
        source.read_into(start, rows)
        blocks.append(rows.reshape(-1).view(np.uint8))
    names: tuple[CodecName, ...] = ("lz4", "zstd")
    for codec in names:
        chunk_bytes = min(choose_chunk_rows(window, row_bytes, codec, most_rate) * row_bytes, blocks[0].size)
        chunks = [
            block[i : i + chunk_bytes] for block in blocks for i in range(0, block.size - chunk_bytes + 1, chunk_bytes)
        ]
        # In the main thread numcodecs would decode by several: the rate shall be that of one.
        with ThreadPoolExecutor(1) as one:
            samples[codec] = one.submit(_sample, codec, itemsize, chunks).result()
    return samples


def _sample(codec: CodecName, itemsize: int, chunks: list[NDArray[np.uint8]]) -> Sample:
    blosc = make_blosc(codec, itemsize)
    assert blosc is not None
    encoded = [blosc.encode(chunk) for chunk in chunks]
    out = np.empty(chunks[0].size, np.uint8)
    fastest = math.inf
    for _ in range(_DECODES):
        begin = time.thread_time()  # what others do on the machine meanwhile is no reason for a codec
        for some in encoded:
            blosc.decode(some, out)
        fastest = min(fastest, time.thread_time() - begin)
    n_bytes = sum(chunk.size for chunk in chunks)
    return Sample(n_bytes / sum(map(len, encoded)), n_bytes / fastest)
