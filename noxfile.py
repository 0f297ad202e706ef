"""What CI runs: `nox` for all, `nox -s check` for formatter, linter and types, `nox -s docs` for the pages, `nox -s audit` for
withdrawn releases, the others for tests. `nox -s lock` is for a person, who renews what all of them install, and `nox -s lowest` for one who
wonders whether the oldest releases that pyproject.toml allows still do."""

import itertools
import re
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"

# The release of each package, for each Python. In every install it is a constraint, so that a run means the same tomorrow.
LOCK = Path(__file__).parent / ".ci" / "lock.txt"

# Not in the lock: its build, for processors alone or with some gigabytes for graphics cards, is what the index offers.
_UNLOCKED = re.compile(r"torch==|triton==|nvidia-|cuda-")


def _install(session: nox.Session, *what: str) -> None:
    session.install(*what, "-c", str(LOCK), env={"UV_BUILD_CONSTRAINT": str(LOCK)})


@nox.session
def check(session: nox.Session) -> None:
    _install(session, "-e.", "--group", "test", "--group", "docs", "--group", "check")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into site/: a warning is an error."""
    _install(session, "--group", "docs")  # the reference is made from the source, without an import
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=["3.12", "3.13"])
def tests(session: nox.Session) -> None:
    # The wheel is tested, not the working tree.
    _install(session, ".", "--group", "test")
    session.run("python", "tests/install_servers.py")
    # Two at a time: most of the time goes into processes that the tests start, one after another. Who is done takes over tests
    # of the other, so that those that share a large file mostly run side by side in one process.
    command = ["pytest", "-n2", "--dist=worksteal", "--import-mode=importlib"]
    if session.python != "3.12":
        # Scripts, pages and notebooks beside the package: what they show is the same on each Python.
        command += [f"--ignore=tests/test_{name}.py" for name in ("benchmarks", "docs", "notebooks")]
    session.run(*command, *session.posargs)


@nox.session(python="3.12", default=False)
def lowest(session: nox.Session) -> None:
    """The same tests with the oldest release that is allowed of each package that swath needs, or takes if it is there."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = (project["optional-dependencies"][name] for name in ("distributed", "images", "plot", "text", "xarray"))
    oldest = Path(session.create_tmp()) / "oldest.txt"
    allowed = "\n".join([*project["dependencies"], *itertools.chain(*extras)])
    oldest.write_text(re.sub(r"\[.*\]", "", allowed).replace(">=", "=="))
    session.install(".", "--group", "test", "-c", f"{oldest}")
    session.run("python", "tests/install_servers.py")
    session.run("pytest", "-n2", "--dist=worksteal", "--import-mode=importlib", *session.posargs)


@nox.session(python="3.12")
def frameworks(session: nox.Session) -> None:
    """Loaders, with the frameworks that they are for, which take gigabytes."""
    _install(session, ".", "--group", "frameworks", "--group", "training")
    command = ["pytest", "-n2", "--dist=worksteal", "--import-mode=importlib", *session.posargs]
    # JAX has threads, and a process that has loaded it must not be forked; the others are.
    session.run(*command, "tests/frameworks", "src/swath/loaders", "--ignore-glob=*jax*", "--ignore-glob=*grain*")
    jax = ["test_jax.py", "test_jax_training.py"]
    session.run(
        *command,
        *(f"tests/frameworks/{name}" for name in jax),
        "src/swath/loaders/jax.py",
        "src/swath/loaders/grain.py",
    )


@nox.session
def audit(session: nox.Session) -> None:
    """Refuse a lock with releases that their authors have withdrawn, of which the package index tells.

    `nox -s audit -- --advisories` asks for known weaknesses too, at a service that is no package index: not for CI.
    """
    session.install("uv")
    told = session.run(
        "uv", "pip", "compile", "--universal", "--python-version=3.12", "--no-deps", str(LOCK), silent=True
    )
    if yanked := re.findall("warning: .* is yanked.*", str(told)):
        session.error("\n".join(["The lock has releases that were withdrawn. Run nox -s lock.", *yanked]))
    if "--advisories" in session.posargs:
        session.install("pip-audit")
        session.run("pip-audit", "--strict", "--disable-pip", "--no-deps", "-s", "osv", "-r", str(LOCK))


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Renew the lock: the newest release of each package that all groups together can have."""
    session.install("uv")
    groups = [f"--group={name}" for name in nox.project.load_toml("pyproject.toml")["dependency-groups"]]
    words = ["uv", "pip", "compile", "pyproject.toml", "--upgrade", "--all-extras", *groups]
    options = ["--universal", "--python-version=3.12", "--no-header", "--no-annotate", "--no-emit-index-url"]
    lines = str(session.run(*words, *options, silent=True, stderr=None)).splitlines(keepends=True)
    kept = [line for line in lines if re.match(r"[a-z0-9-]+==", line) and not _UNLOCKED.match(line)]
    LOCK.write_text("".join(["# Written by `nox -s lock`, for Python 3.12 and later.\n", *kept]))
