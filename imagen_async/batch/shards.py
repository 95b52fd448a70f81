"""A batch in parts: which rows a shard holds, and its share of what the whole may spend; pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import attrs

from imagen_async.batch.identity import short
from imagen_async.batch.source import Source, SourceRows
from imagen_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST: Final = 65_536
"""Shards of one batch: each is a folder, and status looks into all of them."""


def _number(_: Shard, __: attrs.Attribute[Any], of: Any) -> None:
    if not isinstance(of, int) or isinstance(of, bool) or not 1 <= of <= MOST:
        raise ConfigurationError(f"A batch has from 1 to {MOST:,} shards, a whole number.")


def _place(shard: Shard, _: attrs.Attribute[Any], index: Any) -> None:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < shard.of:
        raise ConfigurationError(
            f"A shard of {shard.of} must be a whole number from 0 to {shard.of - 1}."
        )


@attrs.frozen
class Shard:
    """One part of a batch that several processes work on, each in a folder of its own.

    A row belongs to the shard that the digest of what it asks for names: equal rows stay together,
    and a row that is put in at the top moves no other.

    Args:
        index: Which one, from 0, as Slurm and Kubernetes count.
        of: How many there are, at most 65,536; a batch keeps the number that it was begun with.
        source: The file that the rows come from; ``batch`` takes it from ``read_source``.

    Raises:
        ConfigurationError: If there is no such shard.
    """

    of: int = attrs.field(kw_only=True, validator=_number)
    index: int = attrs.field(validator=_place)
    source: Source | None = attrs.field(default=None, kw_only=True, eq=False)

    @property
    def name(self) -> str:
        """Its folder's name, such as ``shard-0003-of-0064``."""
        return f"shard-{self.index:04}-of-{self.of:04}"

    def reading(self, rows: object) -> Shard:
        """Return the shard of these rows, which knows their file if they come from one."""
        if isinstance(rows, SourceRows) and self.source is None:
            return attrs.evolve(self, source=rows.source)
        return self

    def holds(self, digest: bytes) -> bool:
        """Return whether rows with this digest are its own; see ``identity.body_digest``."""
        return short(digest) % self.of == self.index

    def holds_line(self, line: int) -> bool:
        """Return whether a row that asks for nothing, being wrong, is its to list."""
        return line % self.of == self.index

    def part(self, images: int) -> int:
        """Return its share of a number of images; those of all shards add up to the number."""
        return images // self.of + (self.index < images % self.of)


def share_of_rate(requests_per_minute: float, workers: int) -> float:
    """Return one worker's share of a rate; those of all workers never add up to more."""
    return math.nextafter(requests_per_minute / workers, 0.0)


def all_shards(of: int, *, first: int = 0) -> Iterator[Shard]:
    """Yield every shard once, beginning with one of them so that workers do not meet."""
    for step in range(of):
        yield Shard((first + step) % of, of=of)
