"""How bytes are damaged, or made to lie, by a random generator that has a seed."""

import zlib
from random import Random

# What a count, a size or an offset may be to do harm; written in any width and byte order.
_NUMBERS = (
    *(0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)


def mutate(data: bytes, random: Random, most: int = 6) -> bytes:
    """Up to ``most`` changes of some bytes each; most keep the length."""
    found = bytearray(data)
    for _ in range(random.randint(1, most)):
        if not found:
            return bytes(found)
        at = random.randrange(len(found))
        match random.choices(range(7), (8, 4, 8, 2, 1, 1, 1))[0]:
            case 0:
                found[at] = random.randrange(256)
            case 1:
                found[at] ^= 1 << random.randrange(8)
            case 2:
                width = random.choice((1, 2, 4, 8))
                number = random.choice((*_NUMBERS, len(data), len(data) - 1, random.randrange(len(data) + 1)))
                encoded = (number % 256**width).to_bytes(width, random.choice(("little", "little", "little", "big")))
                found[at : at + width] = encoded[: len(found) - at]
            case 3:
                size, source = random.randint(1, 64), random.randrange(len(found))
                part = found[source : source + size][: len(found) - at]
                found[at : at + len(part)] = part
            case 4:
                del found[at:]
            case 5:
                del found[at : at + random.randint(1, 32)]
            case 6:
                found[at:at] = random.randbytes(random.randint(1, 32))
    return bytes(found)


def inflating(n_bytes: int, wbits: int, value: bytes = b"\0") -> bytes:
    """A stream of zlib, a thousandth as long, of so many bytes (a multiple of 16 MiB); its checksum at the end is missing."""
    step = 2**24
    compressor = zlib.compressobj(9, wbits=wbits)
    first = compressor.compress(value * step) + compressor.flush(zlib.Z_FULL_FLUSH)
    again = compressor.compress(value * step) + compressor.flush(zlib.Z_FULL_FLUSH)  # which needs nothing before it
    return first + again * (n_bytes // step - 1)
