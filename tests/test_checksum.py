from hypothesis import given
from hypothesis import strategies as st

from swath.checksum import Combiner, crc32c


@given(st.integers(1, 300), st.integers(0, 6), st.randoms(use_true_random=False))
def test_the_combined_checksum_is_that_of_all_bytes(size: int, n: int, random: object) -> None:
    chunks = [random.randbytes(size) for _ in range(n)]  # type: ignore[attr-defined]
    assert Combiner(size).combine(map(crc32c, chunks)) == crc32c(b"".join(chunks))


def test_large_chunks() -> None:
    chunks = [bytes([k]) * 2**20 for k in range(3)]
    assert Combiner(2**20).combine(map(crc32c, chunks)) == crc32c(b"".join(chunks))


@given(st.integers(0, 2), st.integers(0, 31))
def test_a_wrong_bit_in_any_of_them_shows(which: int, bit: int) -> None:
    checksums = [crc32c(bytes([k]) * 100) for k in range(3)]
    right = Combiner(100).combine(checksums)
    checksums[which] ^= 1 << bit
    assert Combiner(100).combine(checksums) != right
