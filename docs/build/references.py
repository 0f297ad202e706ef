"""Names in docstrings, `RowArray.gather` or `gather`, become links where the reference has them."""

import re
from pathlib import Path
from typing import Any

import griffe

_PAGES = Path(__file__).parents[1] / "reference"
_LITERAL = re.compile(r"^::\n", re.M)  # Markdown knows a block of code by its indentation
_CODE = re.compile(r"(?<![`\[])`(~?[A-Za-z_][\w.]*)`(?!`|\])")


def documented() -> set[str]:
    """Full names that the pages of the reference ask for."""
    return {name for page in _PAGES.glob("*.md") for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)}


class References(griffe.Extension):
    """Links of what is in backticks once; code that is no name has them twice."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """After all of a package was read: each name may mean any of the others."""
        public: dict[str, str] = {}
        owners: list[tuple[griffe.Object | griffe.Alias, str]] = []
        for name in documented():
            found = pkg[name.removeprefix(f"{pkg.path}.")]
            target = found.final_target if isinstance(found, griffe.Alias) else found
            owners.append((target, name))
            public |= {name: name, target.path: name}
            for member in target.members.values() if target.is_class else ():
                if not member.name.startswith("_"):
                    public |= {f"{each}.{member.name}": f"{name}.{member.name}" for each in (name, target.path)}
        for owner, name in owners:
            _hide_constructor(owner)
            scopes = [name, owner.path, pkg.path, owner.path.rpartition(".")[0], f"{pkg.path}.errors", ""]
            for each in (owner, *(owner.members.values() if owner.is_class else ())):
                if each.docstring is not None and not each.is_alias:
                    each.docstring.value = _linked(_LITERAL.sub("", each.docstring.value), scopes, public)
                    _mend(each.docstring, pkg["errors"])


def _hide_constructor(owner: griffe.Object | griffe.Alias) -> None:
    """Of a class that other calls make: it says nothing of its parameters, or has private fields."""
    if not isinstance(owner, griffe.Class) or (
        owner.docstring is not None and "\nParameters\n" in owner.docstring.value
    ):
        return
    own = owner.members.get("__init__")
    if own is not None and ("dataclass" not in owner.labels or any(p.name.startswith("_") for p in owner.parameters)):
        owner.del_member("__init__")


def _mend(docstring: griffe.Docstring, errors: griffe.Module) -> None:
    """What griffe makes of ``a, b`` in one line: the type of ``a`` for both, and no link to several errors."""
    for section in docstring.parsed:
        if section.kind is griffe.DocstringSectionKind.parameters:
            for each in section.value:
                own = getattr(docstring.parent, "parameters", {})
                if isinstance(each.annotation, griffe.Expr) and each.name in own:
                    each.annotation, each.value = own[each.name].annotation, own[each.name].default
        elif section.kind is griffe.DocstringSectionKind.raises:
            for each in section.value:
                names = re.findall(r"\w+", str(each.annotation))
                links = [griffe.ExprName(name, parent=errors) for name in names]
                each.annotation = griffe.ExprTuple(links, implicit=True) if len(links) > 1 else links[0]


def _linked(text: str, scopes: list[str], public: dict[str, str]) -> str:
    def link(match: re.Match[str]) -> str:
        for scope in scopes:
            target = public.get(f"{scope}.{match[1]}" if scope else match[1])
            if target is not None:
                return f"[`{match[1]}`][{target}]"
        return match[0]

    return _CODE.sub(link, text)
