"""The command and its subcommands, how it ends, and what it says then."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from swath import __version__
from swath.cli import checking, completing, reading, trying, writing
from swath.errors import SwathError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# What the help says of them, and docs/how-to/command-line.md.
_REFUSED, _FAULT, _INTERRUPTED = 2, 3, 130

_AGAIN_SECONDS = 0.05


class _Interrupted(Exception):
    """Ctrl-C; click would print an empty line before we say so."""


class _PipeClosed(Exception):
    """Who reads our output has enough; click would end with 1, which means damage here."""


class _Commands(click.Group):
    """Subcommands in the order in which they are given; one that is mistyped is guessed."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted("; ".join(["interrupted", *map(str, error.args)])) from None
        except BrokenPipeError:
            raise _PipeClosed from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not ctx.resilient_parsing and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands, 1)
            ctx.fail(f"There is no command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""
    \b
    Examples:
      swath demo
      swath ingest recording.h5::signal recording.zarr
      swath plan recording.zarr --random 1000
      swath gather recording.zarr batch.npy --random 1000

    Sizes are bytes, or text as 8GiB or 500MB. Each command has --json, for programs, -v, to see what it does, and -h, with
    examples. `swath completion bash` completes commands, options and files.

    \b
    Exit codes:
      0    done
      1    verify found damage
      2    the call is wrong or cannot be done; the message says why, and what to do
      3    a fault of swath, with a traceback: please report it
      130  interrupted by Ctrl-C (128 + the number of any other signal)
    """,  # click takes a backspace for "leave this paragraph as it is"
)
@click.version_option(__version__, prog_name="swath")
def cli() -> None:
    """Random row windows from arrays bigger than memory."""


for _command in (
    trying.demo,
    writing.ingest,
    reading.info,
    reading.plan,
    reading.gather,
    trying.bench,
    writing.append,
    checking.verify,
    checking.repair,
    reading.export,
    completing.completion,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command; what goes wrong is one line, or with ``--json`` one object, on stderr, and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # and not ignored, as under nohup
            signal.signal(number, _end)
    sys.unraisablehook = _raise_again
    try:
        cli.main(prog_name="swath", complete_var="_SWATH_COMPLETE", standalone_mode=False)
        sys.stdout.flush()
    except SwathError as error:
        _fail(error, str(error), _REFUSED)
    except (_Interrupted, click.Abort) as error:
        _fail(error, str(error) or "interrupted", _INTERRUPTED)
    except click.ClickException as error:
        if _wants_json():
            _fail(error, error.format_message(), error.exit_code)
        error.show()
        sys.exit(error.exit_code)
    except (_PipeClosed, BrokenPipeError):
        # What is left in the buffer is not to fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        where = "" if error.filename is None else f": {error.filename}"
        _fail(error, f"{error.strerror or error}{where}", _REFUSED)
    except Exception as error:
        if not _wants_json():
            traceback.print_exc()
        _fail(error, f"a fault of swath {__version__} ({type(error).__name__}: {error}). Please report it.", _FAULT)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """As Ctrl-C does: what is half written is cleaned up on the way out."""
    sys.exit(128 + number)


def _raise_again(lost: UnraisableHookArgs) -> None:
    """Ctrl-C that falls into the callback of a weak reference, of which h5py has many, is lost there: it comes again, a little later."""
    if issubclass(lost.exc_type, (KeyboardInterrupt, SystemExit)):
        number = signal.SIGINT if issubclass(lost.exc_type, KeyboardInterrupt) else signal.SIGTERM
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(lost)


def _wants_json() -> bool:
    return "--json" in sys.argv[1:]


def _fail(error: BaseException, message: str, code: int) -> NoReturn:
    message = _spoken(message)
    if _wants_json():
        facts = {"error": type(error).__name__.lstrip("_"), "message": message, "exit_code": code}
        click.echo(json.dumps(facts), err=True)
    else:
        click.echo(f"swath: {message}", err=True)
    sys.exit(code)


def _spoken(message: str) -> str:
    """A message of the library, which names arguments as in Python, with the options of the command.

    Examples
    --------
    >>> _spoken("Give overwrite=True, dtype= or codec='zstd', or raise memory_limit.")
    "Give --overwrite, --dtype or --codec 'zstd', or raise --memory-limit."
    """
    options = {
        parameter.name: parameter.opts[0]
        for command in cli.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name
    }
    names = "|".join(options)
    with_value = re.compile(rf"(?<![\w/.-])({names})=(True\b)?(?=(\S?))")
    message = with_value.sub(
        lambda found: options[found[1]] + (" " if not found[2] and found[3] not in "., )" else ""), message
    )
    alone = "|".join(name for name in options if "_" in name)
    return re.sub(rf"(?<![\w/.-])({alone})(?![\w/(])", lambda found: options[found[1]], message)
