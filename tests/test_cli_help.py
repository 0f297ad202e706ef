"""What the help of the command says: examples, JSON, exit codes, the completion of shells; and how soon it says it."""

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import swath
from swath.cli import cli, options
from swath.gather import Verify
from swath.layout import CodecName
from swath.sources.converted import Casting

COMMANDS = ["demo", "ingest", "info", "plan", "gather", "bench", "append", "verify", "repair", "export", "completion"]

# Minutes, gigabytes and other processes: tests/test_cli.py runs these commands in small.
_PARSED_ONLY = ("demo", "bench")


def _examples(name: str | None = None) -> list[str]:
    words = ["--help"] if name is None else [name, "--help"]
    shown = CliRunner().invoke(cli, words, prog_name="swath").output
    examples = shown.partition("Examples")[2]
    return [line.strip() for line in examples.splitlines() if re.match(r" +swath \w", line)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(2000, 64))
    with h5py.File("recording.h5", "w") as file:
        file["signal"] = rows
    for name in ("part-1", "part-2", "day-1", "day-2", "day-3", "x", "y"):
        np.save(f"{name}.npy", rows)
    np.save("starts.npy", [9, 0, 1984])
    rows.astype("f4").tofile("samples.bin")
    return tmp_path


def _make_stores(name: str) -> None:
    if name not in ("ingest", "completion"):
        swath.ingest("recording.h5::signal", "recording.zarr")
        swath.ingest("day-1.npy" if name == "append" else ["day-1.npy", "day-2.npy"], "all.zarr")
        swath.ingest_group({"X": "x.npy", "y": "y.npy"}, "group.zarr")


def test_the_examples_are_found() -> None:
    assert list(cli.commands) == COMMANDS
    assert all(len(_examples(name)) >= 1 for name in COMMANDS)
    assert len(_examples()) == 4


@pytest.mark.parametrize("name", [*COMMANDS, None])
def test_every_example_of_the_help_runs(here: Path, name: str | None) -> None:
    examples = _examples(name)
    if name is not None:
        _make_stores(name)
    for line in examples:
        words = shlex.split(line.partition(">")[0])[1:]
        if words[0] in _PARSED_ONLY:
            cli.commands[words[0]].make_context(words[0], [w.replace("/var/tmp", str(here)) for w in words[1:]])
            continue
        done = CliRunner().invoke(cli, words, prog_name="swath")
        assert done.exit_code == 0, (line, done.output)
        assert done.stdout.strip(), line


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        pytest.param("info recording.zarr", {"url", "shape", "codec", "why"}, id="info"),
        pytest.param("info group.zarr", {"url", "arrays"}, id="info-group"),
        pytest.param("ingest x.npy new.zarr", {"url", "shape", "window"}, id="ingest"),
        pytest.param("ingest x.npy new.zarr --dry-run", {"store_bytes", "expected_s", "fits", "reason"}, id="dry-run"),
        pytest.param("append day-3.npy all.zarr", {"url", "shape", "segments"}, id="append"),
        pytest.param("plan recording.zarr --random 9", {"bytes_read", "requests", "peak_bytes"}, id="plan"),
        pytest.param("gather recording.zarr b.npy --random 9", {"out", "shape", "dtype", "bytes"}, id="gather"),
        pytest.param("export recording.zarr b.npy --rows -7:", {"target", "shape", "dtype"}, id="export"),
        pytest.param("verify all.zarr", {"url", "sound", "arrays"}, id="verify"),
        pytest.param("repair all.zarr day-1.npy day-2.npy", {"url", "arrays"}, id="repair"),
    ],
)
@pytest.mark.usefixtures("here")
def test_json_is_one_object_on_one_line(words: str, keys: set[str]) -> None:
    _make_stores("all")
    done = CliRunner().invoke(cli, [*words.split(), "--json"])
    assert (done.exit_code, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    facts = json.loads(done.stdout)
    assert keys <= facts.keys()
    if "export" in words:
        assert facts["shape"] == [7, 64]
    if "verify" in words:
        assert facts["sound"]
        assert facts["arrays"][0]["damages"] == []


def _run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swath.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        pytest.param("info nothing", 2, "StoreNotFoundError", id="typed"),
        pytest.param("infoo x", 2, "UsageError", id="usage"),
        pytest.param("gather recording.zarr o.npy --starts gone.npy", 2, "FileNotFoundError", id="system"),
        pytest.param("gather recording.zarr o.npy --starts cut.npy", 2, "StartsError", id="not-starts"),
        pytest.param("gather recording.zarr gone/o.npy --starts 1", 2, "UsageError", id="no-folder"),
        pytest.param("plan recording.zarr --random 1 --window 2001", 2, "WindowError", id="window"),
        pytest.param("ingest x.npy new.zarr --memory-limit much", 2, "OptionError", id="size"),
        pytest.param("ingest x.npy new.zarr --memory-limit 1kB --dry-run", 2, "MemoryLimitError", id="memory"),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_error_is_json_on_stderr_too(words: str, code: int, error: str) -> None:
    swath.ingest("recording.h5::signal", "recording.zarr")
    Path("cut.npy").write_bytes(b"\x93NUMPY")
    done = _run(*words.split(), "--json")
    assert (done.returncode, done.stdout) == (code, ""), done
    facts = json.loads(done.stderr)
    assert (facts["error"], facts["exit_code"]) == (error, code)
    assert facts["message"]


def test_a_typo_is_guessed() -> None:
    done = _run("ingset", "a", "b")
    assert done.returncode == 2
    assert "There is no command 'ingset'. Did you mean 'ingest'?" in done.stderr
    assert "Did you mean '--memory-limit'?" in _run("verify", "a", "--memory-limt", "1").stderr


def test_messages_name_options_as_they_are_typed(here: Path) -> None:
    swath.ingest("x.npy", "a.zarr")
    assert "or give --overwrite to replace" in _run("ingest", "x.npy", "a.zarr").stderr
    assert "give --dtype and --row-shape." in _run("ingest", "samples.bin", "b.zarr").stderr
    assert "Raise --memory-limit" in _run("ingest", "x.npy", "b.zarr", "--memory-limit", "1kB").stderr


def test_a_folder_that_may_not_be_written_to_is_one_line(here: Path) -> None:
    swath.ingest("x.npy", "a.zarr")
    done = _run("ingest", "x.npy", "/proc/self/new.zarr")
    assert done.returncode == 2
    assert re.fullmatch(r"swath: .+: /proc/.+\n", done.stderr), done.stderr


def test_a_fault_has_a_traceback_and_a_code_of_its_own() -> None:
    program = "import swath.cli as c; c.cli.commands['info'].callback = lambda **k: 1 / 0; c.main()"
    for words, shown in (([], "Traceback"), (["--json"], '"error": "ZeroDivisionError"')):
        done = subprocess.run(
            [sys.executable, "-c", program, "info", "a", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 3
        assert shown in done.stderr
        assert "Please report it" in done.stderr


def test_choices_are_those_of_the_library() -> None:
    assert set(options.CODECS) == {"auto", *get_args(CodecName)}
    assert get_args(Casting) == options.CASTINGS
    assert get_args(Verify) == options.VERIFY


def test_help_imports_nothing_that_is_heavy() -> None:
    """It takes a tenth of a second: less than numpy alone."""
    program = "import sys; from swath.cli import cli; cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert "swath.cli.root" in modules
    assert not {"numpy", "rich", "swath.array", "zarr", "h5py"} & set(modules)


def test_every_public_name_is_found_when_it_is_asked_for() -> None:
    program = "import swath; print(*(n for n in swath.__all__ if getattr(swath, n) is None)); print(swath.nothing)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == ""
    assert done.stderr.rstrip().endswith("AttributeError: module 'swath' has no attribute 'nothing'")
    assert set(swath.__all__) <= set(dir(swath))


def _swath_on_path(folder: Path) -> dict[str, str]:
    (folder / "bin").mkdir()
    (folder / "bin/swath").write_text(f'#!/bin/sh\nexec {sys.executable} -m swath.cli "$@"\n')
    (folder / "bin/swath").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder)}


# What a user types, and what Tab offers then.
_COMPLETED = [
    ("swath ver", {"verify"}),
    ("swath ingest a b --co", {"--codec"}),
    ("swath ingest a b --codec z", {"zstd"}),
]

_BASH = """
source completion
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_swath_completion swath
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_FISH = "source completion; complete -C '{line}'"


@pytest.mark.parametrize(("line", "offered"), _COMPLETED, ids=["command", "option", "choice"])
@pytest.mark.parametrize(("shell", "script"), [("bash", _BASH), ("fish", _FISH)])
def test_a_shell_completes(tmp_path: Path, shell: str, script: str, line: str, offered: set[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environment = _swath_on_path(tmp_path)
    (tmp_path / "completion").write_text(_run("completion", shell).stdout)
    done = subprocess.run(
        [shell, "-c", script.format(line=line)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert {word.split("\t")[0] for word in done.stdout.split("\n") if word} >= offered, done
    assert "demo" not in done.stdout


@pytest.mark.parametrize(("line", "offered"), _COMPLETED, ids=["command", "option", "choice"])
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(tmp_path: Path, line: str, offered: set[str]) -> None:
    """It completes in its editor alone: the line is typed, and Tab."""
    environment = _swath_on_path(tmp_path) | {"TERM": "dumb", "PS1": "> "}
    (tmp_path / "completion").write_text(_run("completion", "zsh").stdout)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
    try:
        _typed(terminal, "autoload -Uz compinit; compinit -u -D; source ./completion; echo rea''dy\n", "ready")
        completed = line.rpartition(" ")[0] + " " + next(iter(offered))
        _typed(terminal, line + "\t", completed)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def _typed(terminal: int, text: str, wanted: str) -> None:
    """Type into a terminal, and wait for what it shows then."""
    os.write(terminal, text.encode())
    shown, deadline = "", time.monotonic() + 60
    while wanted not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 2**16).decode(errors="replace")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_files_are_left_to_the_shell(shell: str) -> None:
    asked = {"_SWATH_COMPLETE": f"{shell}_complete", "COMP_WORDS": "swath info rec", "COMP_CWORD": "2"}
    if shell == "fish":
        asked["COMP_CWORD"] = "rec"
    assert "file" in _run(**asked).stdout


def _sizes() -> Iterator[tuple[str, click.Option]]:
    for name, command in cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.metavar == "SIZE":
                yield name, parameter


@pytest.mark.parametrize(("name", "option"), list(_sizes()), ids=lambda value: str(getattr(value, "name", value)))
def test_sizes_are_read_as_people_write_them(name: str, option: click.Option) -> None:
    read: dict[str, Any] = {
        text: option.type_cast_value(click.Context(cli.commands[name]), text) for text in ("8GiB", "50MB", "123")
    }
    assert read == {"8GiB": 8 * 2**30, "50MB": 50 * 10**6, "123": 123}
