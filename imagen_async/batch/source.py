"""Where rows come from, if another process can read them there too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.batch.prompts import Requests, Row
    from imagen_async.batch.shards import Shard


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
class SourceRows:
    """An iterator over the rows of a file, or of standard input.

    Args:
        given: What was given to ``read_source``.
    """

    given: Source
    _rows: Iterator[Row]

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._rows)

    @property
    def source(self) -> Source | None:
        """The file; None if it is none that can be read again."""
        return self.given if self.given.path.is_file() else None


def with_source(shard: Shard, requests: Requests) -> Shard:
    """Return a shard that knows the file of its rows, if they come from one."""
    if isinstance(requests, SourceRows) and shard.source is None:
        return attrs.evolve(shard, source=requests.source)
    return shard
