"""What CI runs: `nox` for all, `nox -s check` for formatter, linter and types, `nox -s tests-3.12` for tests."""

import nox

nox.options.default_venv_backend = "uv|virtualenv"


@nox.session
def check(session: nox.Session) -> None:
    session.install("-e.", "--group", "test", "--group", "check")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")


@nox.session(python=["3.12", "3.13"])
def tests(session: nox.Session) -> None:
    # The wheel is tested, not the working tree.
    session.install(".", "--group", "test")
    session.run("pytest", "--import-mode=importlib", *session.posargs)
