"""Exit codes, and the one line that says what went wrong."""

from __future__ import annotations

from typing import Final

from imagen_async.cli.words import error_words
from imagen_async.errors import (
    CallLogError,
    ConfigurationError,
    DownloadError,
    ImagenError,
    InvalidRequestError,
    NotSentError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    RejectedError,
    ServerFailedError,
    SpoiledAnswerError,
)
from imagen_async.wire.text import printable

DONE: Final = 0
ERROR: Final = 1
USAGE: Final = 2
PARTIAL: Final = 3
"""A batch in which anything is not done."""
REJECTED: Final = 4
SERVER: Final = 5
NETWORK: Final = 6
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""

_CODES: Final[tuple[tuple[type[ImagenError], int], ...]] = (
    (InvalidRequestError, USAGE),
    (ConfigurationError, USAGE),
    (QuotaError, REJECTED),
    (RejectedError, REJECTED),
    (ServerFailedError, SERVER),
    (SpoiledAnswerError, SERVER),
    (DownloadError, SERVER),
    (CallLogError, SERVER),
    (NotSentError, NETWORK),
    (RefusedError, NETWORK),
)


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error.

    An unknown outcome is the server's if it answered at all, else the network's.
    """
    if isinstance(error, OutcomeUnknownError):
        return NETWORK if error.status is None else SERVER
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def error_line(error: BaseException) -> str:
    """Return what an error says, on one line that is safe to show."""
    if isinstance(error, ImagenError):
        return error_words(error)
    return printable(
        f"unexpected {type(error).__name__}: {error}; set IMAGEN_DEBUG=1 to see where, "
        "and please report it."
    )
