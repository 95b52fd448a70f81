"""The two streams: results on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import textwrap
import time
import warnings
from typing import TYPE_CHECKING, TextIO

from imagen_async.cli.words import spoken
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class _Console:
    """Whether notes are left out, and what takes away for a line what is drawn."""

    # Not of attrs, whose import would be a fifth of what help takes.
    quiet: bool = False
    around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


_console = _Console()


def prepare() -> None:
    """Let neither closed streams nor characters that their encoding lacks stop the program."""
    set_up(quiet=False)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # A socket that took the free number would end libuv, and with it the program.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_up(*, quiet: bool) -> None:
    """Show notes or leave them out; errors, warnings and results are always shown."""
    _console.quiet = quiet


def draw_around(around: Callable[[], AbstractContextManager[object]] | None) -> None:
    """Write lines from now on in a context that takes away what is drawn; None for no more."""
    _console.around = around or contextlib.nullcontext


def result(line: str) -> None:
    """Write a line of results.

    A reader that went away, such as ``head``, stops the writing and nothing else: what is in
    flight is paid for.
    """
    _write(sys.stdout, line)


def raw_result(data: bytes) -> None:
    """Write bytes to standard output.

    Raises:
        OSError: If it does not take them all.
    """
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def note(line: str) -> None:
    """Write a line that is neither a result nor an error, unless notes are left out."""
    if not _console.quiet:
        warn(line)


def warn(line: str) -> None:
    """Write a line that is not a result and that nobody should miss."""
    _write(sys.stderr, _folded(line))


def _folded(line: str) -> str:
    """Return a line broken at words where a terminal would break it; commands stay whole."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (AttributeError, OSError, ValueError):
        return line
    if line.startswith("  ") or not 0 < width < len(line):  # some know no width
        return line
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Write the warnings of a block as lines of ours, without a place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        warn(f"Note: {spoken(printable(str(warning.message)))}")


class _Lines(logging.Handler):
    """Writes each record as a line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        warn(f"{time.strftime('%H:%M:%S')} {printable(record.getMessage())}")


@contextlib.contextmanager
def logged(verbose: int) -> Iterator[None]:
    """Write what the package logs in a block as lines.

    Args:
        verbose: 0 for nothing, 1 for retries and failures, 2 for all.
    """
    if not verbose:
        yield
        return
    log, handler = logging.getLogger("imagen_async"), _Lines()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _write(stream: TextIO | None, line: str) -> None:
    if stream is None:  # closed by the parent before we began
        return
    try:
        with _console.around():
            stream.write(f"{line}\n")
            stream.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end and would complain.
        with contextlib.suppress(OSError, ValueError):
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, stream.fileno())
            os.close(sink)
