"""Ways to break bytes, and ways to break JSON so that it is JSON still, or nearly: by a seed, so that each can be made again."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

type Rng = np.random.Generator

# What json.dumps cannot say is put in its place afterwards.
_RAW = "\ue000{}\ue001"


def pick[T](rng: Rng, values: list[T]) -> T:
    return values[int(rng.integers(len(values)))]


def mutate_bytes(content: bytes, rng: Rng) -> bytes:
    """A few wrong bits or bytes, some cut out, put in twice, or of something else."""
    broken = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(broken) + 1))
        some = int(rng.integers(1, 30))
        match int(rng.integers(8)):
            case 0 | 1 if at < len(broken):
                broken[at] ^= 1 << int(rng.integers(8))
            case 2 if at < len(broken):
                broken[at] = pick(rng, list(b'{}[]",:0-9eEtn\\\0\xff\xc0/. '))
            case 3:
                del broken[at : at + some]
            case 4:
                broken[at:at] = broken[at : at + some]
            case 5:
                broken[at:at] = rng.bytes(some)
            case 6:
                del broken[at:]
            case _:
                source = int(rng.integers(len(broken) + 1))
                broken[at : at + some] = broken[source : source + some]
    return bytes(broken)


def _nested(opening: str, closing: str, depth: int) -> str:
    return opening * depth + "0" + closing * depth


# Text of JSON that json.dumps does not write: a bomb, a number of 5000 digits, what is no number, half of a character.
_TEXTS = [
    "9" * 5000,
    "-" + "9" * 5000,
    "0." + "9" * 5000,
    "1e400",
    "-1e400",
    "1e-400",
    "NaN",
    "Infinity",
    "-Infinity",
    "-0",
    "1.0",
    "1e3",
    "[" * 100_000,
    '{"a":' * 100_000,
    _nested("[", "]", 300),
    _nested("[", "]", 900),
    _nested("[", "]", 5_000),
    _nested("[", "]", 100_000),
    _nested('{"name":', "}", 900),
    _nested('{"name":', "}", 50_000),
    '"\\ud800"',
    '"\\u0000"',
    '"' + "A" * 1_000_000 + '"',
    "[" + "0," * 300_000 + "0]",
    '{"a": 1, "a": 2}',
]

_VALUES: list[Any] = [
    0,
    1,
    2,
    3,
    7,
    -1,
    -(2**63),
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**53 + 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    2**65,
    10**300,
    0.5,
    -1.5,
    1e18,
    1e308,
    True,
    False,
    None,
    "",
    " ",
    "0",
    "60",
    "../../..",
    "/etc/passwd",
    "..%2f..",
    "\x00",
    "é\u2028\U0001f600",
    "a" * 300,
    [],
    {},
    [[]],
    [None],
    [0],
    [1],
    [1] * 40,
    [1] * 70,
    [2**62] * 3,
    [-1, -1],
    [0, 0],
    ["a", "b"],
    [[1, 2], [3]],
    {"name": "x"},
    {"name": None},
    {"name": {"name": "bytes"}},
    {"configuration": {}},
]

_WORDS = [
    "float64",
    "float65",
    "int8",
    "uint64",
    "bool",
    "complex128",
    "r8",
    "r7",
    "r-8",
    "r0",
    "r99999999999999999999",
    "string",
    "bytes",
    "null_terminated_bytes",
    "fixed_length_utf32",
    "variable_length_bytes",
    "numpy.datetime64",
    "struct",
    "structured",
    "<f8",
    ">f8",
    "|O",
    "O",
    "|S0",
    "|S5",
    "<U999999999",
    "|V0",
    "|V2147483647",
    "<M8[ns]",
    "<M8[99999999999999s]",
    "f8,f8",
    "(2,2)f8",
    "(1000000,1000000)f8",
    "little",
    "big",
    "start",
    "end",
    "gzip",
    "zstd",
    "blosc",
    "crc32c",
    "transpose",
    "sharding_indexed",
    "vlen-utf8",
    "numcodecs.pickle",
    "numcodecs.delta",
    "numcodecs.lzma",
    "pickle",
    "json2",
    "regular",
    "rectilinear",
    "default",
    "v2",
    "array",
    "group",
    ".",
    "/",
    "C",
    "F",
    "K",
    "raw",
    "lz4",
    "swath",
    "zlib",
    "bz2",
    "lzma",
]

_CODECS: list[Any] = [
    {"name": "gzip", "configuration": {"level": -5}},
    {"name": "zstd", "configuration": {"level": 1000, "checksum": False}},
    {
        "name": "blosc",
        "configuration": {"cname": "x", "clevel": 5, "shuffle": "shuffle", "typesize": 0, "blocksize": -1},
    },
    {"name": "transpose", "configuration": {"order": [5, 0]}},
    {"name": "transpose", "configuration": {"order": [1, 0]}},
    {"name": "bytes", "configuration": {"endian": "big"}},
    {"name": "bytes"},
    {"name": "crc32c"},
    {"name": "numcodecs.delta", "configuration": {"dtype": "|O"}},
    {"name": "numcodecs.astype", "configuration": {"encode_dtype": "|O", "decode_dtype": "<i4"}},
    {"name": "numcodecs.fixedscaleoffset", "configuration": {"dtype": "<f8", "scale": 0, "offset": 0}},
    {"name": "numcodecs.shuffle", "configuration": {"elementsize": 0}},
    {"name": "numcodecs.lzma", "configuration": {"format": 99}},
    {"name": "numcodecs.pickle"},
    {"name": "vlen-utf8"},
    {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, 1],
            "codecs": [{"name": "bytes"}],
            "index_codecs": [{"name": "bytes"}],
        },
    },
    {"id": "pickle"},
    {"id": "delta", "dtype": "|O"},
    {"id": "astype", "encode_dtype": "<f4", "decode_dtype": "|V0"},
    {"id": "shuffle", "elementsize": 0},
    {"id": "lzma", "format": 99},
    {"id": "blosc", "cname": 5},
    {"id": "vlen-utf8"},
    {"id": "json2"},
    {"id": "categorize", "labels": ["a"] * 1000, "dtype": "|O"},
]


class _Texts:
    """Texts that are put into JSON where their marks stand."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        self._texts.append(text)
        return _RAW.format(len(self._texts) - 1)

    def fill(self, encoded: str) -> str:
        for k, text in enumerate(self._texts):
            encoded = encoded.replace(json.dumps(_RAW.format(k)), text)
        return encoded


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value in a document, but for the document itself."""
    found: list[tuple[Any, ...]] = [path] if path else []
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:50]:
        found += _places(value[key], (*path, key))
    return found


def mutate_json(document: Any, rng: Rng, *, within: tuple[Any, ...] = ()) -> bytes:
    """JSON of a document in which one to three values are not what they should be; all of them under ``within``."""
    document = copy.deepcopy(document)
    texts = _Texts()
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        places = [place for place in _places(document) if place[: len(within)] == within]
        if places:
            _mutate_one(document, pick(rng, places), rng, texts)
    encoded = texts.fill(json.dumps(document, indent=pick(rng, [None, 2])))
    return encoded.encode(errors="surrogatepass")


def _mutate_one(document: Any, path: tuple[Any, ...], rng: Rng, texts: _Texts) -> None:
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    key, value = path[-1], parent[path[-1]]
    ways: list[Callable[[], Any]] = [
        lambda: parent.__setitem__(key, _like(value, rng)),
        lambda: parent.__setitem__(key, _like(value, rng)),
        lambda: parent.__setitem__(key, _like(value, rng)),
        lambda: parent.__setitem__(key, pick(rng, _VALUES)),
        lambda: parent.__setitem__(key, texts.mark(pick(rng, _TEXTS))),
        lambda: parent.__setitem__(key, [value]),
        lambda: parent.__setitem__(key, {"name": value}),
        lambda: parent.__setitem__(key, _elsewhere(document, rng)),
        lambda: parent.__delitem__(key),
        lambda: _beside(parent, key, rng, texts),
    ]
    pick(rng, ways)()


def _like(value: Any, rng: Rng) -> Any:
    """Something of the same type."""
    if isinstance(value, bool) or value is None:
        return pick(rng, [True, False, None, 0, 1])
    if isinstance(value, int):
        changes = [
            value + 1,
            value - 1,
            value * 2,
            value // 2,
            -value,
            0,
            1,
            3,
            2**31,
            2**40,
            2**63,
            value + 2**32,
            float(value),
        ]
        return pick(rng, changes)
    if isinstance(value, float):
        return pick(rng, [0.0, -value, 1e300, int(value), 5e-324])
    if isinstance(value, str):
        return pick(rng, [pick(rng, _WORDS), value + "x", value[:-1], value.upper(), value[::-1], "\ud800"])
    if isinstance(value, list):
        return pick(
            rng, [value * 2, value[:-1], value[::-1], [*value, 1], [*value, pick(rng, _CODECS)], value * 1000, []]
        )
    return pick(rng, [{}, pick(rng, _CODECS), {**value, "name": pick(rng, _WORDS)}, [value], list(value)])


def _elsewhere(document: Any, rng: Rng) -> Any:
    path = pick(rng, _places(document) or [()])
    for key in path:
        document = document[key]
    return copy.deepcopy(document)


def _beside(parent: Any, key: Any, rng: Rng, texts: _Texts) -> None:
    """One more beside a value: an entry of a list, or of a dict, which may have the same key."""
    more: Any = pick(rng, [*_VALUES, *_CODECS, texts.mark(pick(rng, _TEXTS))])
    if isinstance(parent, list):
        parent.insert(int(rng.integers(len(parent) + 1)), more)
        return
    name = pick(rng, ["x", "", "NaN", "must_understand", "a" * 3000, "\x00", "\ud800"])
    if rng.random() < 0.5:
        # The mark is a key: what is written is the key once more, with another value.
        twice = json.dumps(key) + ": " + json.dumps(pick(rng, _VALUES)) + ", " + json.dumps(name)
        name = texts.mark(twice)
    parent[name] = more
