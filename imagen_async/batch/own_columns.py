"""The user's own columns: what a row holds beside its request. They are kept and never sent."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from imagen_async.errors import InvalidRequestError
from imagen_async.wire.request import REQUEST_FIELDS
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_T = TypeVar("_T")

MOST: Final = 65_536
"""Characters that the columns of one row may take as JSON: the journal keeps them of each."""
LISTED: Final = frozenset(
    {"error", "line", "dropped", "file_name", "files", "width", "height", "media_type", "bytes"}
    | {"sha256", "request_id", "created"}
)
"""What our own lists write beside a request; in a row of theirs it asks for nothing."""
GATEWAYS: Final = frozenset(
    {"size", "quality", "seed", "negative_prompt", "output_format", "background"}
)
"""Fields of images APIs that we do not know: a row that names one asks for it."""
NAMES: Final[frozenset[str]] = LISTED | {"id", *REQUEST_FIELDS}
_ENCODER: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def of_row(cells: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    """Return a row's own columns; a name that our lists use, or that is there, gets a ``_``."""
    own: dict[str, _T] = {}
    for name, value in cells:
        while name in NAMES or name in own:
            name += "_"  # noqa: PLW2901
        own[name] = value
    return own


def of_list(row: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Return the user's own columns of a row of one of our lists."""
    return {name: value for name, value in row.items() if name not in NAMES}


def is_listed(row: Mapping[Any, Any]) -> bool:
    """Return whether a row of an input is one that our lists wrote."""
    return row.get("error") is not None or ("file_name" in row and "sha256" in row)


def check(_: object, __: object, columns: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError if a row's own columns cannot be kept.

    One that is called nearly like a field of a request is refused: what was to be asked for would
    not be, and the images would be bought all the same.
    """
    size = 0
    for name, value in columns.items():
        if wrong := misspelt(name):
            raise InvalidRequestError(wrong)
        try:
            size += len(_ENCODER.encode({name: value}))
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequestError(
                f"its column {_shown(name)} holds what JSON cannot carry ({type(value).__name__}); "
                "make it text."
            ) from None
    if size > MOST:
        raise InvalidRequestError(
            f"its own columns take {size:,} characters, and {MOST:,} are kept; leave some out."
        )


@lru_cache(maxsize=1024)
def misspelt(name: object) -> str | None:
    """Return what is wrong with the name of a column; None if nothing is."""
    if not isinstance(name, str):
        return f"the name of its column {_shown(name)} is no text."
    if name in NAMES:
        return f"the name of its column {_shown(name)} is ours; call it {name}_, or anything else."
    if name in GATEWAYS:
        return (
            f"the column {_shown(name)} would not be sent; put it into the column extra, as "
            f"{{{json.dumps(name)}: ...}}, or call it by another name."
        )
    folded = _folded(name)
    near = get_close_matches(folded, _LONG, 1, cutoff=0.85)
    field = _FOLDED.get(near[0] if near else folded)
    return field and (
        f"the column {_shown(name)} would not be sent; call it {field}, or by quite another name."
    )


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _shown(name: object) -> str:
    return printable(repr(name), 80)


# Not the prompt: which column holds it is the user's to say, and another may be called so.
_FOLDED: Final = {_folded(name): name for name in REQUEST_FIELDS[1:]}
_LONG: Final = [folded for folded in _FOLDED if len(folded) > 5]
"""Names that no other word is like; a column called mode is no misspelt model."""
