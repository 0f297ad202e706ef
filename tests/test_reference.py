"""The reference has every public name, and each docstring says what its parameters are, what is raised, and shows one that runs."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS

import swath
from swath import errors

_PAGES = sorted((DOCS / "reference").glob("*.md"))
_ASKED = [name for page in _PAGES for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.MULTILINE)]
_LOADERS = ("torch", "keras", "jax", "grain")

# What one says for all.
_AS_IN = re.compile(r"(Parameters and errors|``options``) are those of")

# Methods that others carry out: orders, sources and targets, whose protocols say in a sentence what is given.
_BY_TYPE = ("swath.sampling.", "swath.population.", "swath.sources.", "swath.targets.")


def _public() -> Iterator[str]:
    """Full names, as users write them."""
    yield from (f"swath.{name}" for name in swath.__all__ if name not in ("errors", "SwathError", "plot"))
    for module in ("sampling", "plot", "xarray/__init__", *(f"loaders/{name}" for name in _LOADERS)):
        yield from _defined(module)


def _defined(module: str) -> list[str]:
    """Public classes and functions that a module defines; its source tells, since frameworks may be missing."""
    text = (Path(swath.__file__).parent / f"{module}.py").read_text()
    names = re.findall(r"^(?:class|def) ([A-Za-z]\w*)", text, re.MULTILINE)
    return [f"swath.{module.removesuffix('/__init__').replace('/', '.')}.{name}" for name in names]


# They carry the above out, and are no names for users.
_INNER = {f"swath.sampling.{name}" for name in ("Sampler", "sampler_of", "is_whole", "order_card", "order_picture")}


def test_nothing_public_is_missing() -> None:
    assert sorted(set(_public()) - _INNER - set(_ASKED)) == []
    assert len(_ASKED) == len(set(_ASKED))


def test_every_error_is_drawn_in_the_tree() -> None:
    assert "swath.errors" in _ASKED
    assert errors.__doc__ is not None
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert kinds == set(re.findall(r"\w+Error\b", errors.__doc__)) - {
        base.__name__ for kind in kinds for base in getattr(errors, kind).__mro__ if base.__module__ == "builtins"
    }


def _callables() -> Iterator[tuple[str, Any]]:
    """What the reference shows that is called: functions, public methods, and classes that users make."""
    for name in _ASKED:
        if name.startswith("swath.loaders.") or name == "swath.errors":
            continue  # the frameworks may be missing; their doctests run where they are not
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
        if not inspect.isclass(found):
            yield name, found
            continue
        for method, value in vars(found).items():
            value = value.__func__ if isinstance(value, classmethod) else value
            if inspect.isfunction(value) and not method.startswith("_"):
                yield f"{name}.{method}", value


def _section(doc: str, title: str) -> str:
    """What stands under a title of numpydoc."""
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\w+\n---|\Z)", doc, re.DOTALL | re.MULTILINE)
    return match[1] if match else ""


@pytest.mark.parametrize(("name", "function"), [pytest.param(*pair, id=pair[0]) for pair in _callables()])
def test_a_docstring_says_all(name: str, function: Any) -> None:
    doc = inspect.getdoc(function)
    assert doc, "no docstring"
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name not in ("self", "cls")]
    if name.count(".") == 1:  # a function of swath itself
        assert _section(doc, "Examples")
        assert _section(doc, "Raises")
    raised = set(re.findall(r"raise (\w+Error)", inspect.getsource(function)))
    assert raised <= set(re.findall(r"\w+Error", _section(doc, "Raises")))
    if name.startswith(_BY_TYPE) or _AS_IN.search(doc):
        return
    heads = re.findall(r"^(\w[\w, ]*)(?: :.*)?$", _section(doc, "Parameters"), re.MULTILINE)
    described = {word for head in heads for word in head.split(", ")}
    assert {each.name for each in parameters if each.kind is not each.VAR_KEYWORD} <= described
