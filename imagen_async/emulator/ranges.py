"""Parts of files: Range, If-Range and what answers them (RFC 9110, section 14)."""

from __future__ import annotations

import re

import attrs

from imagen_async.emulator.answers import Answer

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


def ranged(answer: Answer, asked: str | None, condition: str | None) -> Answer:
    """Return the part of a file that is asked for; the whole where it asks for none or several.

    Args:
        answer: The whole file, with its ``ETag``.
        asked: The ``Range`` header.
        condition: The ``If-Range`` header: only this ETag gets a part.
    """
    if answer.status != 200 or "ETag" not in answer.headers:
        return answer
    headers = {**answer.headers, "Accept-Ranges": "bytes"}
    answer, size = attrs.evolve(answer, headers=headers), len(answer.body)
    found = _RANGE.fullmatch(asked or "")
    if found is None or not any(found.groups()) or condition not in (None, headers["ETag"]):
        return answer
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < start:  # no range at all: it is as if it were not there
        return answer
    if start >= stop:
        headers = {**headers, "Content-Range": f"bytes */{size}"}
        return Answer(416, content_type="text/plain", headers=headers)
    part = answer.body[start:stop]
    headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return attrs.evolve(answer, status=206, body=part, headers=headers, sent=len(part) // 2)


def completes(answer: Answer) -> bool:
    """Return whether whoever has all that came before an answer has the whole file with it."""
    span, _, size = answer.headers.get("Content-Range", "").partition("/")
    return answer.status == 200 or (answer.status == 206 and span.endswith(f"-{int(size) - 1}"))
