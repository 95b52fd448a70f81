"""What the journal keeps of requests, errors and images, as JSON values, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from imagen_async.wire.generation import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imagen_async.errors import ImagenError
    from imagen_async.wire.request import GenerationRequest

to_json: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), default=str).encode
REQUEST_FIELDS = ("prompt", "model", "aspect_ratio", "response_format", "n")


def request_to_row(request: GenerationRequest, name: str | None) -> dict[str, Any]:
    """Return a row that can be an input again: the user's id and what was asked."""
    row: dict[str, Any] = {} if name is None else {"id": name}
    for field in REQUEST_FIELDS:
        if (value := getattr(request, field)) is not None:
            row[field] = value
    if request.extra:
        row["extra"] = dict(request.extra)
    return row


def row_json(request: GenerationRequest, name: str | None) -> str:
    """Return a row as the journal keeps it, ASCII JSON."""
    return to_json(request_to_row(request, name))


def error_to_row(error: ImagenError) -> dict[str, Any]:
    """Return what is kept of an error: nothing that could hold a secret."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "status": error.status,
        "code": error.code,
        "charge": str(error.charge),
        "idempotency_key": error.idempotency_key,
        "request_id": error.request_id,
    }


def images_requested(request: GenerationRequest) -> int:
    """Return how many images a request buys, at least."""
    n = request.n if request.n is not None else request.extra.get("n")
    return n if isinstance(n, int) and n > 0 else 1


def count_files(answer: dict[str, Any]) -> int:
    """Return how many images of an answer are files here."""
    return sum(each.get("file_name") is not None for each in answer["images"])


def file_names(answer: str | None) -> set[str]:
    """Return the names of the files that the journal keeps with an answer."""
    images = json.loads(answer).get("images", ()) if answer else ()
    return {each["file_name"] for each in images if each.get("file_name") is not None}


def image_of(folder: Path, kept: dict[str, Any]) -> Image:
    """Return an image as the journal describes it."""
    name = kept.get("file_name")
    return Image(
        url=kept.get("url"),
        path=None if name is None else folder / name,
        media_type=kept.get("media_type"),
        width=kept.get("width"),
        height=kept.get("height"),
        revised_prompt=kept.get("revised_prompt"),
    )
