"""What is done when an object store does not answer as it should?

A request that fails is made again, after a pause that doubles and is drawn at random, until one deadline for all of its tries. What
cannot become better, such as refused credentials, is an error soon. No message has what a server or a library wrote but with all secrets
struck out.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Callable

from swath.errors import DiskFullError, StoreAccessError, StoreUnreachableError
from swath.storage.gate import interruptible
from swath.storage.options import Options

_log = logging.getLogger(__name__)

DEADLINE_SECONDS = 120.0
"""Of one request with all its tries."""

_FIRST_PAUSE_SECONDS = 0.05
_MOST_PAUSE_SECONDS = 5.0
_PAUSES = random.SystemRandom()  # without a state: that of `random` is the caller's, who may have seeded it

# Where nobody listens, or no such name is known, waiting helps less.
_NOBODY_SECONDS = 15.0
_NOBODY = re.compile("(?i)dns error|connection refused|tcp connect error|InvalidContentType|invalid peer certificate")

# The first line of an error says that the request was not sent, and a later one why.
_WHY = {
    "Connection refused": "nobody listens there",
    "dns error": "no such host is known",
    "InvalidContentType": "https:// was asked of a server that speaks plain HTTP",
    "invalid peer certificate": "its certificate is not trusted",
}

# A proxy may refuse once what it lets pass the next time. Where no credentials are found, those of a virtual machine are asked for.
_REFUSED_TRIES = 2
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal")

# What gives some, by the first letter of a URL.
_CREDENTIALS = {
    "s": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (those of a profile: aws configure export-credentials --format env)",
    "g": "GOOGLE_APPLICATION_CREDENTIALS, the path of a key",
    "a": "AZURE_STORAGE_ACCOUNT_KEY",
}

# What a server says once may be a fault on the way; one that says it so often cannot do what is asked of it. A redirect tells of a
# bucket in another region.
_UNABLE_TRIES = 6
_UNABLE = re.compile("redirect|Content-Length Header missing|Range request not supported")


class NoAnswerError(Exception):
    """What came is not what was asked for."""


def asked[T](url: str, ask: Callable[[], T], *, missing_tries: int, options: Options) -> T:
    """The answer to a request, which is made again while that may help.

    Raises
    ------
    FileNotFoundError
        There is nothing, so often as that was told.
    DiskFullError, StoreAccessError, StoreUnreachableError
    """
    import obstore

    begun = time.monotonic()
    pause = _FIRST_PAUSE_SECONDS
    tries = 0
    while True:
        tries += 1
        try:
            return interruptible(ask)
        except FileNotFoundError:
            if tries >= missing_tries:
                raise FileNotFoundError(f"There is no {url}") from None
        except (obstore.exceptions.BaseError, NoAnswerError) as error:
            text, told = str(error), told_of(error, options)
            if _is_full(text):
                raise DiskFullError(f"There is no room for {url} ({told}). Make room.") from None
            if tries >= (
                _REFUSED_TRIES if _is_refused(error, text) else _UNABLE_TRIES if _UNABLE.search(text) else math.inf
            ):
                raise StoreAccessError(_refusal(url, text, told)) from None
            most = _NOBODY_SECONDS if _NOBODY.search(text) else DEADLINE_SECONDS
            if time.monotonic() + pause > begun + most:
                raise StoreUnreachableError(
                    f"{url} gave no sound answer to {tries} tries in {most:.0f} s ({told}). "
                    "Check the network and the server, and call again."
                ) from None
            _log.info("%s: try %d failed (%s), and is made again", url, tries, told)
        time.sleep(pause * _PAUSES.uniform(0.5, 1.5))
        pause = min(2 * pause, _MOST_PAUSE_SECONDS)


def _refusal(url: str, text: str, told: str) -> str:
    """What a user is told of a request that would fail again, and what to do."""
    if _NO_CREDENTIALS.search(text) and (given := _CREDENTIALS.get(url[0].lower())):
        return (
            f"{url} is asked for with credentials, but the environment and storage_options have none, and this machine has no "
            f"role that gives some ({told}). Give {given} in the environment of each process that reads; or skip_signature=True in storage_options, "
            "for what everybody may read."
        )
    if "Range request not supported" in text:
        return (
            f"The server gives {url} as a whole, and not the bytes that are asked for ({told}). Take one that knows Range "
            "requests, as nginx and Caddy do and Python's http.server does not, or copy the store to a disk."
        )
    if "BadScheme" in text:
        return (
            f"{url} is asked of an endpoint that begins with http://, which is not encrypted and so must be allowed "
            f"({told}). Give allow_http=True in storage_options, or AWS_ALLOW_HTTP=true in the environment."
        )
    return (
        f"{url} is refused ({told}). Check credentials, region and endpoint, in the environment or in storage_options."
    )


def told_of(error: BaseException, options: Options) -> str:
    """The first line of an error, and what a status says, without secrets."""
    text = str(error)
    status, first = status_of(text), text.partition("\n")[0][:300]
    why = "".join(f": {words}" for sign, words in _WHY.items() if sign in text)
    return options.redacted((first if status in first else f"{first}, HTTP {status}") + why)


def _is_refused(error: BaseException, text: str) -> bool:
    """Whether asking again will not help."""
    import obstore

    kinds = obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError
    if "builder error" in text:  # no request was made: the endpoint is no URL, or plain HTTP, which must be allowed
        return True
    status = status_of(text)
    again = status in ("408", "409", "416", "425", "429")
    return (
        isinstance(error, kinds) or (status.startswith("4") and not again) or _NO_CREDENTIALS.search(text) is not None
    )


def _is_full(text: str) -> bool:
    return status_of(text) == "507" or re.search("InsufficientStorage|QuotaExceeded", text) is not None


def status_of(text: str) -> str:
    """Of an answer, in the text of an error: other numbers in it are of keys, ports and times."""
    status = re.search(r"status(?: code)?: (\d{3})", text)
    return "" if status is None else status[1]
