"""Modules import lower layers only, and ``import swath`` is cheap."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import swath

_SOURCE = Path(swath.__file__).parent

# From the lowest; a folder is one module, and "__init__" is the public face. Modules of one layer do not know each other.
LAYERS = [
    {"errors"},
    {"memory", "windows", "layout", "dtypes", "times", "labels"},
    {"drawing"},
    {"html"},
    {"plan", "permutation", "population"},
    {"sampling"},
    {"checksum", "progress", "ahead", "buffers", "blosc_buffers"},
    {"storage"},
    {"sources", "targets"},
    {"decoder"},
    {"shard", "joined"},
    {"metadata", "raw", "encoded", "stamps"},
    {"commit", "rows"},
    {"commit_objects"},
    {"committing"},
    {"writing", "store", "foreign", "in_place"},
    {"opening", "streaming", "documents"},
    {"sample", "mapped", "announcing", "crew", "landing"},
    {"gather"},
    {"workers", "check", "gathered"},
    {"cluster", "lazy"},
    {"ingestion"},
    {"repair", "graphs", "recipe", "forecasting"},
    {"computing", "batches"},
    {"array", "sharing", "plotted"},
    {"doors", "group", "exporting"},
    {"loaders", "plot", "xarray"},
    {"__init__"},
    {"measure"},
    {"demo"},
    {"cli"},
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
PURE = LEVEL["sampling"]

# Below the command line, each of these is the business of one module, or of the two that it is named for.
OWNERS = {
    "zarr": {"metadata", "foreign", "sources", "storage", "targets"},
    "obstore": {"storage"},
    "dask": {"lazy", "graphs", "computing", "sources"},
    "distributed": {"workers"},
    "h5py": {"sources", "targets"},
    "PIL": {"sources"},
    "numcodecs": {"decoder"},
    "rich": {"progress"},
    "IPython": {"progress"},
    "matplotlib": {"plot", "plotted"},
    "awscrt": {"checksum"},
    "pyarrow": {"sources"},
    "torch": {"loaders"},
    "keras": {"loaders"},
    "jax": {"loaders"},
    "grain": {"loaders"},
    "xarray": {"xarray"},
}


class _WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return ast.Pass()
        return self.generic_visit(node)


def _imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports when it runs, in functions too."""
    for node in ast.walk(_WithoutTypeChecking().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(root: Path) -> list[str]:
    """What is imported in ``root`` that should not be."""
    found = []
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).parts[0].removesuffix(".py")
        if module not in LEVEL:
            found.append(f"{module} has no layer")
            continue
        for name in _imports(path):
            top, _, rest = name.partition(".")
            if top == "swath":
                inner = rest.partition(".")[0]
                target = inner if inner in LEVEL else "__init__"
                if LEVEL[target] >= LEVEL[module] and not (target == module and path.parent != root):
                    found.append(f"{module} imports {target}")
            elif top not in sys.stdlib_module_names and top != "numpy":
                theirs = module not in OWNERS.get(top, {module}) and LEVEL[module] < LEVEL["measure"]
                if theirs or LEVEL[module] <= PURE:
                    found.append(f"{module} imports {top}")
    return found


def test_each_module_imports_lower_layers_only() -> None:
    assert violations(_SOURCE) == []


def test_every_layer_exists() -> None:
    assert {path.name.removesuffix(".py") for path in _SOURCE.iterdir()} >= set(LEVEL)


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        pytest.param("plan", "from swath.gather import gather", "plan imports gather", id="higher"),
        pytest.param("windows", "from swath import layout", "windows imports layout", id="beside"),
        pytest.param("gather", "import swath", "gather imports __init__", id="public-face"),
        pytest.param("layout", "import zarr", "layout imports zarr", id="not-pure"),
        pytest.param("store", "def f():\n    import dask.array", "store imports dask", id="in-a-function"),
        pytest.param("sources/dask", "from swath.store import Store", "sources imports store", id="in-a-folder"),
        pytest.param("helpers", "", "helpers has no layer", id="unknown"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, line: str, found: str) -> None:
    shutil.copytree(_SOURCE, tmp_path / "swath")
    with (tmp_path / "swath" / f"{module}.py").open("a") as file:
        file.write(f"\n{line}\n")
    assert violations(tmp_path / "swath") == [found]


HEAVY = {
    "zarr",
    "dask",
    "h5py",
    "rich",
    "click",
    "torch",
    "keras",
    "jax",
    "grain",
    "pandas",
    "distributed",
    "PIL",
    "pyarrow",
    "matplotlib",
    "IPython",
    "xarray",
}


def _loaded(statement: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_swath_loads_nothing_heavy() -> None:
    assert _loaded("import swath") == set()


def test_what_is_heavy_is_seen_when_it_is_loaded() -> None:
    assert {"dask", "rich"} <= _loaded("import swath; swath.compute; import rich")
