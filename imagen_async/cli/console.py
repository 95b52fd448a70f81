"""The two streams: results on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator


def prepare() -> None:
    """Let neither closed streams nor characters that their encoding lacks stop the program."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # A socket that took the free number would end libuv, and with it the program.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def result(line: str) -> None:
    """Write a line of results.

    A reader that went away, such as ``head``, stops the writing and nothing else: what is in
    flight is paid for.
    """
    _write(sys.stdout, line)


def note(line: str) -> None:
    """Write a line that is not a result."""
    _write(sys.stderr, line)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Write the warnings of a block as lines of ours, without a place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        note(f"Note: {printable(str(warning.message))}")


def _write(stream: TextIO | None, line: str) -> None:
    if stream is None:  # closed by the parent before we began
        return
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end and would complain.
        with contextlib.suppress(OSError, ValueError):
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, stream.fileno())
            os.close(sink)
