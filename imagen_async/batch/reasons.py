"""Why items failed, in a few words that many of them share; pure."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

_POLICY: Final = re.compile(
    r"content.?policy|content.?filter|moderation|safety system|responsible ai|sensitive.?words?"
    r"|prohibited content|usage guidelines|prompt_blocked|敏感词|内容审核|违规",
    re.IGNORECASE,
)
_BEFORE: Final = re.compile(r".* (?:did not come|cannot be used): ")
_AFTER: Final = re.compile(r"[:;,.(].*", re.DOTALL)


def reason_of(message: str, *, status: int | None, code: str | None) -> str:
    """Return the reason that an error shares with others of its kind.

    Args:
        message: What the error says.
        status: The HTTP status of its answer.
        code: The gateway's own code.
    """
    if _POLICY.search(f"{code} {message}"):
        return "content policy"
    if "instead of an image" in message:
        return "not an image"
    told = _BEFORE.sub("", message, count=1)
    if told == message and status is not None and not 200 <= status < 300:
        return f"{status} {code.replace('_', ' ') if code else _phrase(status)}".rstrip()
    short = _AFTER.sub("", told).strip()
    return f"{short[:1].lower()}{short[1:]}" or "no reason given"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
