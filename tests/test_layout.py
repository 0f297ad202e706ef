from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.errors import LayoutError, OptionError, SwathError
from swath.layout import choose_layout


def _choose(shape: tuple[int, ...] = (1000, 10), dtype: Any = "f8", **given: Any) -> Any:
    options = {"window": 16, "chunk_rows": "auto", "shard_rows": "auto", "codec": "raw", "most_shard_bytes": 2**30}
    return choose_layout(shape, np.dtype(dtype), **{**options, **given})


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 2**32))
def test_any_array_has_a_layout(n_rows: int, row_bytes: int, window: int, most: int) -> None:
    layout = _choose((n_rows, row_bytes), "u1", window=window, most_shard_bytes=most)
    assert layout.shard_rows % layout.chunk_rows == 0
    assert layout.shard_rows * row_bytes <= max(most, layout.chunk_bytes)
    assert sum(layout.chunks_in(s) for s in range(layout.n_shards)[:2]) <= layout.n_chunks
    assert layout.rows_of(layout.n_shards - 1)[1] == n_rows
    assert layout.chunk_bytes < 2**31


def test_the_reference_array_gets_chunks_of_four_rows() -> None:
    layout = _choose((2_000_000, 2000))
    assert (layout.chunk_rows, layout.codec) == (4, "raw")
    assert 60 * 2**20 < layout.shard_rows * layout.row_bytes <= 64 * 2**20


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"shape": (5, 0)}, LayoutError, r"shape \(0,\)", id="empty-rows"),
        pytest.param({"dtype": "V0"}, LayoutError, "no bytes", id="empty-dtype"),
        pytest.param({"chunk_rows": 0}, OptionError, "chunk_rows is 0", id="chunk-0"),
        pytest.param({"chunk_rows": 2.0}, OptionError, "chunk_rows is 2.0", id="chunk-float"),
        pytest.param({"shard_rows": True}, OptionError, "shard_rows is True", id="shard-bool"),
        pytest.param({"chunk_rows": 8, "shard_rows": 20}, LayoutError, "multiple of 8, such as 16", id="shard"),
        pytest.param({"chunk_rows": 2**30}, LayoutError, "Choose chunk_rows <=", id="chunk-too-large"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(options: dict[str, Any], error: type[SwathError], message: str) -> None:
    with pytest.raises(error, match=message):
        _choose(**options)
