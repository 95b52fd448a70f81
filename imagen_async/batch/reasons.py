"""Why items failed, in a few words that many of them share; pure."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

_SHARED: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (
            (
                r"content.?policy|content.?filter|moderation|safety system|responsible ai"
                r"|sensitive.?words?|prohibited content|usage guidelines|prompt_blocked"
                r"|敏感词|内容审核|违规"
            ),
            "content policy",
        ),
        (r"instead of an image|is spoiled", "not an image"),
        (r"did not come: the server answered", "link refused"),
        (r"did not come", "download failed"),
        (r"no image in it", "no image in the answer"),
        (r"connection was lost", "connection lost"),
        (r"no (?:whole )?answer (?:came )?(?:in time|within)", "no answer in time"),
        (r"ended too early|was cut off|is not JSON", "answer cut off"),
    )
)
"""The words of the commonest reasons, by what an error says."""
_AFTER: Final = re.compile(r"[:;,(].*|\.(?:\s.*)?$", re.DOTALL)


def reason_of(message: str, *, status: int | None, code: str | None) -> str:
    """Return the reason that an error shares with others of its kind.

    Args:
        message: What the error says.
        status: The HTTP status of its answer.
        code: The gateway's own code.
    """
    told = f"{code} {message}"
    for pattern, words in _SHARED:
        if pattern.search(told):
            return words
    if status is not None and not 200 <= status < 300:
        return f"{status} {code.replace('_', ' ') if code else _phrase(status)}".rstrip()
    short = _AFTER.sub("", message.removeprefix("The ")).strip()
    return f"{short[:1].lower()}{short[1:]}" or "no reason given"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
