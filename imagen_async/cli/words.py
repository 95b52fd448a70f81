"""Words for a terminal: the library's terms as flags, reasons, text cut to fit; pure."""

from __future__ import annotations

import re
import shlex
import unicodedata
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from imagen_async.errors import ConfigurationError, ImagenError, InvalidRequestError
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ADVICE: Final = (
    (
        "lower concurrency or requests_per_minute.",
        "ask for less at once (batch has --concurrency and --rpm).",
    ),
    ("what came is on the error's images; make room", "a note says where it is kept; make room"),
    ("its link is on the error's images: try the download again.", "the link is kept."),
    ("set IMAGEN_API_KEY, or pass api_key.", "set IMAGEN_API_KEY."),
)
"""What errors of any kind advise, for Python and for the command line."""
_TERMS: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"pass base_url='([^']*)'", r"give --base-url \1"),
        (r"pass the key as api_key", "put the key into IMAGEN_API_KEY"),
        (r"say new_options \((--new-options)\)", r"add \1"),
        (r"set on_unknown to resend \((--on-unknown resend)\)", r"add \1"),
        (r"put it into extra=\{'(\w+)': \.\.\.\}", r"use --set \1=..., or the row's extra"),
        (r"\bheaders\['([^']*)'\]", r"--header \1"),
        (r"\bbase_url\b", "--base-url"),
        (r"^proxy\b", "--proxy"),
        (r"^extra holds", "--set holds"),
        (r"^(?:total|answer)\b", "--timeout"),
        (r"\brequests_per_minute\b", "--rpm"),
        (r"\b(price_per_image|prompt_column|give_up_after|max_failures)\b", ""),
    )
)
"""The library's terms, and what the command line calls them."""
_MASKED: Final = {"--header": "NAME:VALUE", "--proxy": "URL"}
"""Options whose values may be secrets, and what is shown for them."""
_ONCE: Final = {"--on-unknown": True, "--retry-failed": False, "--new-options": False}
"""Options that buy or send again, which holds for one run; and whether each has a value."""


def spoken(text: str) -> str:
    """Return a text of the library's own in the command line's terms."""
    for pattern, words in _TERMS:
        text = pattern.sub(words or (lambda found: f"--{found[0].replace('_', '-')}"), text)
    return advised(text)


def advised(text: str) -> str:
    """Return a text that may quote a server with its advice in the command line's terms."""
    for python, words in _ADVICE:
        text = text.replace(python, words)
    return text


def error_words(error: ImagenError) -> str:
    """Return what an error says, in the command line's terms; servers' words stay as they are."""
    return printable((spoken if _ours(error) else advised)(str(error)))


def spoken_message(error: ImagenError) -> str:
    """Return what happened, without what to do, in the command line's terms."""
    return printable(spoken(error.message) if _ours(error) else error.message)


def _ours(error: ImagenError) -> bool:
    return isinstance(error, ConfigurationError | InvalidRequestError)


def cut(text: str, width: int) -> str:
    """Return a text on one line, cut at a word to so many columns of a terminal."""
    text = printable(" ".join(text.split()))
    ends = [*accumulate(map(_columns, text))]  # the column after each character
    if not ends or ends[-1] <= width:
        return text
    place = bisect_right(ends, width - 1)  # room for the sign that it is cut
    whole = text.rfind(" ", 0, place + 1)
    return f"{text[: whole if whole > place // 2 else place].rstrip(' ,;:.')}…"


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def kept_columns(names: Iterable[str]) -> str:
    """Return what becomes of columns that are no field of a request."""
    shown = cut(", ".join(names), 200)
    return f"Kept beside each image, not sent: {shown} (--set sends a field of the gateway's own)."


def duration(seconds: float) -> str:
    """Return seconds in words, with two units at most."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def amount(money: float) -> str:
    """Return money as a flag takes it, with no digit lost that counts."""
    return f"{money:.6f}".rstrip("0").rstrip(".")


def command(arguments: Sequence[str], *more: str) -> str:
    """Return the command of a batch with more options, to be pasted into a shell.

    Args:
        arguments: What was typed after the command's name; what held for one run is left out.
        *more: Options, and their values.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    names = {word: not next_.startswith("--") for word, next_ in pairwise((*more, "--"))}
    gone = _ONCE | {name: value for name, value in names.items() if name.startswith("--")}
    kept, rest = _without(arguments[:end], gone), arguments[end:]
    return printable(shlex.join(("imagen-async", "batch", *kept, *more, *rest)))


def _without(arguments: Iterable[str], gone: Mapping[str, bool]) -> Iterator[str]:
    words = iter(arguments)
    for word in words:
        name, joined, _ = word.partition("=")
        if name in gone:
            if gone[name] and not joined:
                next(words, None)
        elif name in _MASKED:
            if not joined:
                next(words, None)
            yield from (name, _MASKED[name])
        else:
            yield word
