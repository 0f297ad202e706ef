"""Options that commands share, and how their text is read."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from swath.errors import OptionError, StartsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from swath.array import RowArray

# As swath.layout, swath.sources.converted and swath.gather name them, which are not imported for a help text.
CODECS = ("auto", "raw", "lz4", "zstd")
CASTINGS = ("exact", "rounded", "unsafe")
VERIFY = ("always", "never")


def _name_of(param: click.Parameter | None, kind: click.ParamType) -> str:  # type: ignore[type-arg]
    return param.opts[0] if param else kind.name


class Place(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4, and not before
    """A file, a folder or a URL, which a shell completes as a file."""

    name = "place"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Size(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4, and not before
    """Bytes, or text such as ``8GiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from swath.memory import parse_bytes

        text = int(value) if str(value).isascii() and str(value).isdigit() else value
        return parse_bytes(text, _name_of(param, self))


class RowRange(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4, and not before
    """``A:B``, as Python slices."""

    name = "rows"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> slice:
        match = re.fullmatch(r"([+-]?\d+)?:([+-]?\d+)?", value, re.ASCII)
        if match is None:
            option = _name_of(param, self)
            raise OptionError(
                f"{option} is {value[:60]!r}. Give two whole numbers with a colon between them, such as 0:1000."
            )
        return slice(*(None if part is None else int(part) for part in match.groups()))


class Integers(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4, and not before
    """Whole numbers with commas between them."""

    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return _integers(value)
        except ValueError:
            option = _name_of(param, self)
            raise OptionError(f"{option} is {value[:60]!r}. Give whole numbers with commas between them.") from None


class Columns(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4, and not before
    """``A:B``, or whole numbers with commas between them."""

    name = "columns"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> slice | list[int]:
        kind = RowRange() if ":" in value else Integers()
        chosen: slice | list[int] = kind.convert(value, param, ctx)
        return chosen


def source_of(word: str) -> Any:
    """What is read from: a path, or of a URL the array that is there."""
    import swath
    from swath.storage import is_remote

    return swath.open(word) if is_remote(word) else word


def _integers(text: str) -> list[int]:
    """Whole numbers with commas or blanks between them."""
    return [int(word) for word in text.replace(",", " ").split()]


def _show_log(ctx: click.Context, param: click.Parameter, count: int) -> None:
    """Messages of the library go to stderr while the command runs: -v what it does, -vv all of it."""
    if not count:
        return
    logger, handler = logging.getLogger("swath"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if count == 1 else logging.DEBUG)

    def restore() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)

    ctx.call_on_close(restore)


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, an error as one on stderr.")
_verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_show_log,
    help="Say on stderr what is done; -vv says more.",
)


def common[F: Callable[..., Any]](command: F) -> F:
    """The options of every command."""
    return _json(_verbose(command))


window = click.option("--window", type=int, help="Rows of a window; by default what the store was laid out for.")
memory_limit = click.option("--memory-limit", type=Size(), metavar="SIZE", help="What the call may use, such as 8GiB.")
timeout = click.option(
    "--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for another writer."
)
seed = click.option("--seed", type=int, default=0, show_default=True, help="Of the random starts.")
row_range = click.option(
    "--rows", type=RowRange(), metavar="A:B", help="Rows from A to B - 1, as in Python; all by default."
)
columns = click.option("--columns", type=Columns(), metavar="A:B|LIST", help="Columns alone, as 0:50 or 3,500,7.")
_starts = click.option("--starts", type=Place(), metavar="LIST|FILE", help="Starts as 3,500,7, or a .npy or text file.")
_random = click.option("--random", "n_random", type=click.IntRange(min=0), metavar="N", help="N random starts instead.")


def starts[F: Callable[..., Any]](command: F) -> F:
    """Which windows are meant: see `choose_starts`."""
    return _starts(_random(seed(window(command))))


def choose_starts(
    a: RowArray, starts: str | None, n_random: int | None, seed: int, window: int | None
) -> NDArray[np.int64]:
    """The starts that a user has given, or has asked to be drawn.

    Raises
    ------
    click.UsageError
        Neither or both.
    StartsError
    """
    from pathlib import Path

    import numpy as np

    from swath.measure import random_starts

    if (starts is None) == (n_random is None):
        raise click.UsageError("Give either --starts or --random.")
    if n_random is not None:
        rows = a.window if window is None else window
        # A window that does not exist in the array is refused by the call itself, with its own message.
        return random_starts(max(len(a), rows), n_random, rows, seed)
    path = Path(str(starts))
    if path.suffix == ".npy":
        try:
            chosen: NDArray[Any] = np.load(path, allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # of numpy, and of Python's parser
            raise StartsError(f"--starts is {path}, which is no .npy file ({error}). Write it by numpy.save.") from None
        return chosen
    is_file = False
    with contextlib.suppress(OSError):  # the system takes no name as long as some lists
        is_file = path.is_file()
    try:
        text = path.read_text() if is_file else str(starts)
        return np.array(_integers(text), np.int64)
    except (ValueError, OverflowError) as error:
        raise StartsError(
            f"--starts is {str(starts)[:60]!r}, which is no list of whole numbers of 64 bits, nor a file of them ({str(error)[:100]}). "
            "Give whole numbers with commas between them, or a file of them, as text or by numpy.save."
        ) from None
