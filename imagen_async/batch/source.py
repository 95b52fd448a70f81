"""Where rows come from, if another process can read them there too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


@attrs.frozen
class Source:
    """A file of rows, and how it is read.

    Args:
        path: The file.
        prompt_column: The column or key of the prompt.
        id_column: The column or key of the user's own id.
    """

    path: Path = attrs.field(converter=Path)
    prompt_column: str = "prompt"
    id_column: str = "id"


@attrs.define(eq=False)
class SourceRows(Generic[T]):
    """An iterator over the rows of a file, or of standard input.

    Args:
        given: What was given to ``read_source``.
    """

    given: Source
    _rows: Iterator[T]

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._rows)

    @property
    def source(self) -> Source | None:
        """The file; None if it is none that can be read again."""
        return self.given if self.given.path.is_file() else None
