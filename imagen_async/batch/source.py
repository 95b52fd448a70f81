"""The rows of an input that knows where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.batch.prompts import Requests, Row
    from imagen_async.batch.shards import Shard


@attrs.define(eq=False)
class SourceRows:
    """An iterator over the rows of a file, or of standard input.

    Args:
        name: As it was given to ``read_source``.
    """

    name: str
    _rows: Iterator[Row]

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._rows)

    @property
    def path(self) -> Path | None:
        """The file; None if it is none that another process could read too."""
        path = Path(self.name)
        return path.absolute() if path.is_file() else None


def with_source(shard: Shard, requests: Requests) -> Shard:
    """Return a shard that knows the file of its rows, if they come from one."""
    if isinstance(requests, SourceRows) and shard.source is None:
        return attrs.evolve(shard, source=requests.path)
    return shard
