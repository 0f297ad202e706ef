"""What the page on the command line shows is run, and names what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click

from swath.cli import cli

_PAGE = (Path(__file__).parents[1] / "docs/how-to/command-line.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL)


def test_its_blocks_run_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, words in (("swath", "-m swath.cli "), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(home)}
    (python,) = _blocks("python")
    # These two start a dozen processes each: tests/test_cli.py runs them.
    bash = [re.sub(r"swath (demo|bench) .*", r"swath \1 --help", block) for block in _blocks("bash")]
    script = "\n".join([f"python - <<'END'\n{python}END", *bash])
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home, env=environment)
    assert done.returncode == 0, done.stderr
    assert "[20000, 200]\n" in done.stdout
    assert "Nothing was written." in done.stdout
    assert (home / ".zfunc/_swath").stat().st_size > 100


def test_each_command_is_shown() -> None:
    shown = {words for block in _blocks("bash") for words in re.findall(r"(?m)\bswath (\w+)", block)}
    assert shown == set(cli.commands)


def test_each_option_that_it_names_exists() -> None:
    there = {
        name
        for command in cli.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _PAGE)) <= there | {"--help"}
