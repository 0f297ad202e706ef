"""Every block of code of README and docs runs, every link leads somewhere, and nothing public is missing from the reference."""

import importlib.util
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from pages import DOCS, FRAMEWORKS, PAGES, ROOT, blocks_of, commands_of, name_of, run_page
from servers import Server

_RUN = [path for path in PAGES if blocks_of(path.read_text())]
_ALL = [*PAGES, *sorted((DOCS / "reference").glob("*.md"))]

# What a page says that a reader has, and we don't.
_README_SETUP = """<!-- setup
import h5py, numpy as np
with h5py.File("recording.h5", "w") as file:
    file["A"] = np.random.default_rng(0).normal(size=(10_000, 20))
starts = np.arange(0, 9_000, 100)
-->
"""
_CLUSTER_SETUP = """<!-- setup
import distributed, numpy as np, os, swath
os.mkdir("shared")
swath.ingest(np.random.default_rng(0).normal(size=(2_000, 50)), "shared/petabyte.zarr")
starts = np.arange(0, 1_900, 10)
cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
-->
"""
_CLUSTER_END = """
<!-- setup
client.close()
cluster.close()
-->
"""


@pytest.mark.parametrize("path", _RUN, ids=name_of)
def test_a_page_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Callable[[str], Server]
) -> None:
    text, stands_for = path.read_text(), {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if path.name == "README.md":
        text = _README_SETUP + text
    if path == DOCS / "cluster.md":
        text = _CLUSTER_SETUP + text + _CLUSTER_END
        stands_for = {'"tcp://head:8786"': "cluster.scheduler_address", "/shared/": f"{tmp_path}/shared/"}
    if "s3://bucket" in text:
        server = served("moto")
        prefix = re.sub(r"\W", "-", name_of(path))
        stands_for = {
            "s3://bucket": f"{server.url}/{prefix}",
            '{"region": "eu-central-1"}': repr(server.storage_options),
            "http://127.0.0.1:9000": str(server.storage_options["endpoint"]),
            "https://example.org": f"{server.url}/{prefix}",
            "/tmp/swath": str(tmp_path / "cache"),
        }
        for name, value in server.storage_options.items():
            monkeypatch.setenv(
                f"AWS_{name.removeprefix('aws_').upper()}", str(value).lower() if value is True else str(value)
            )
    run_page(name_of(path), text, with_frameworks=False, stands_for=stands_for)


def test_there_are_pages_of_each_kind() -> None:
    names = [name_of(path) for path in _RUN]
    assert {"README.md", "docs/tutorial.md", "docs/format.md"} <= set(names)
    assert sum(name.startswith("docs/how-to/") for name in names) >= 11
    assert sum(name.startswith("docs/coming-from/") for name in names) == 6
    needed = {block.needs for path in _RUN for block in blocks_of(path.read_text())}
    assert needed >= set(FRAMEWORKS)


@pytest.mark.parametrize("path", _ALL, ids=name_of)
def test_commands_of_this_package_are_ones_that_there_are(path: Path) -> None:
    """Also those in the text: `swath NAME`."""
    from swath.cli import cli

    text = path.read_text()
    named = re.findall(r"`swath ([a-z]+)[^`]*`", text)
    for block in blocks_of(text):
        if block.kind == "bash":
            named += [word for program, word, *_ in map(str.split, commands_of(block.code)) if program == "swath"]
    assert {word for word in named if not word.startswith("-")} <= cli.commands.keys()


@pytest.mark.parametrize("path", _ALL, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    wrong = [link for link in links_of(path.read_text()) if not leads(path, link)]
    assert wrong == []


@pytest.mark.parametrize("path", _ALL, ids=name_of)
def test_files_that_are_named_are_there(path: Path) -> None:
    named = re.findall(r"\b(?:tests|benchmarks|docs|notebooks)/[\w./-]+\.(?:py|md|json|ipynb)\b", path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def links_of(text: str) -> list[str]:
    """What a page links to, and pictures; not what looks like it in code."""
    prose = re.sub(r"^```.*?^```$|<!--.*?-->|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def leads(path: Path, link: str) -> bool:
    """Whether a link of a page leads to a page, and a heading of it. What lies on other machines is not asked."""
    if link.startswith(("https://", "http://")):
        return True
    target, _, anchor = link.partition("#")
    page = path if not target else (path.parent / target)
    if not page.exists() or (path != ROOT / "README.md" and not page.resolve().is_relative_to(DOCS)):
        return False
    return not anchor or anchor in _anchors(page.read_text())


def _anchors(text: str) -> set[str]:
    """Of headings, as Python-Markdown makes them, and of names that the reference has."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = {_slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}
    for name in re.findall(r"^::: ([\w.]+)", text, re.MULTILINE):
        found |= {name, *(f"{name}.{member}" for member in dir(_named(name)))}
    return found


def _slug(heading: str) -> str:
    plain = unicodedata.normalize("NFKD", heading.replace("`", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def _named(name: str) -> object:
    """What a full name means; nothing where a framework is missing."""
    module, parts = name, list[str]()
    while importlib.util.find_spec(module.partition(".")[0]) and module:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            if "needs" in str(error):
                return None
            module, _, last = module.rpartition(".")
            parts.insert(0, last)
            continue
        for part in parts:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param("```python\n1 / 0\n```\n", ZeroDivisionError, id="python"),
        pytest.param("```python\nimport warnings\nwarnings.warn('so')\n```\n", UserWarning, id="warning"),
        pytest.param("<!-- setup\nx = 1\n-->\n\n```python\nassert x == 2\n```\n", AssertionError, id="setup"),
        pytest.param("```python\nprint(12)\n```\n\n```text\n1...3\n```\n", AssertionError, id="printed"),
        pytest.param("```bash\nswath info nothing.zarr\n```\n", AssertionError, id="command"),
        pytest.param("```bash\n.venv/bin/swath demo --fulll  # so\n```\n", click.NoSuchOption, id="option"),
        pytest.param('```python title="a.py"\n1 / 0\n```\n```bash\npython a.py\n```\n', AssertionError, id="file"),
    ],
)
def test_a_block_that_fails_is_found(
    text: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        run_page("page.md", text, with_frameworks=False)


def test_what_needs_a_framework_waits_for_it() -> None:
    text = "<!-- torch -->\n```python\n1 / 0\n```\n"
    assert run_page("page.md", text, with_frameworks=False) == 0
    with pytest.raises(ZeroDivisionError):
        run_page("page.md", text, with_frameworks=True)


@pytest.mark.parametrize(
    ("link", "right"),
    [("format.md", True), ("formats.md", False), ("format.md#a-shard", True), ("format.md#shards", False),
     ("reference/arrays.md#swath.RowArray.gather", True), ("reference/arrays.md#swath.RowArray.scatter", False),
     ("../README.md", False), ("https://example.org", True)],
)  # fmt: skip
def test_a_link_that_leads_nowhere_is_found(link: str, right: bool) -> None:
    assert links_of(f"See [this]({link}), `not[this](x)`.") == [link]
    assert leads(DOCS / "index.md", link) is right
