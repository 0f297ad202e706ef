"""What CI runs: `nox` for all, `nox -s check` for formatter, linter and types, `nox -s docs` for the pages, the others for tests."""

import nox

nox.options.default_venv_backend = "uv|virtualenv"


@nox.session
def check(session: nox.Session) -> None:
    session.install("-e.", "--group", "test", "--group", "docs", "--group", "check")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into site/: a warning is an error."""
    session.install("--group", "docs")  # the reference is made from the source, without an import
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=["3.12", "3.13"])
def tests(session: nox.Session) -> None:
    # The wheel is tested, not the working tree.
    session.install(".", "--group", "test")
    session.run("python", "tests/install_servers.py")
    # Two at a time: most of the time goes into processes that the tests start, one after another. Who is done takes over tests
    # of the other, so that those that share a large file mostly run side by side in one process.
    command = ["pytest", "-n2", "--dist=worksteal", "--import-mode=importlib"]
    if session.python != "3.12":
        # Scripts beside the package: they compare what it does with what others do, which is the same on each Python.
        command.append("--ignore=tests/test_benchmarks.py")
    session.run(*command, *session.posargs)


@nox.session(python="3.12")
def frameworks(session: nox.Session) -> None:
    """Loaders, with the frameworks that they are for, which take gigabytes."""
    session.install(".", "--group", "frameworks", "--group", "training")
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
