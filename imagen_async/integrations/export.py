"""Export a run, or a folder of runs, to a format that training reads.

Only whole images of settled items are taken; all others are counted by reason and named in
``skipped.jsonl``. Equal runs give equal exports, byte by byte (of Parquet with the same pyarrow).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from imagen_async.batch import lists
from imagen_async.errors import ConfigurationError
from imagen_async.integrations.parquet import CARD, ParquetShard, arrow
from imagen_async.integrations.samples import read_lists, runs_in, samples
from imagen_async.integrations.webdataset import TarShard
from imagen_async.integrations.whole_folder import finish, replacing
from imagen_async.storage import disk
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imagen_async.integrations.samples import Listed, Sample

SUFFIXES: Final = {"webdataset": ".tar", "parquet": ".parquet", "hf": ".parquet"}
"""Each format, and how its files' names end."""
SHARD_BYTES: Final = 1 << 30
"""Bytes of images beyond which another file is begun."""
SKIPPED: Final = "skipped.jsonl"


@attrs.frozen
class Export:
    """What an export holds.

    Args:
        path: The folder.
        images: How many images it holds.
        bytes: Their sum.
        shards: How many files they are in.
        skipped: How many rows of the lists were left out, by reason.
    """

    path: Path
    images: int
    bytes: int
    shards: int
    skipped: Mapping[str, int]


class _Shard(Protocol):
    def add(self, key: str, row: dict[str, Any], image: memoryview, suffix: str) -> None: ...
    def close(self) -> None: ...


def export(
    folder: Path, to: str, out: Path | None = None, *, shard_bytes: int = SHARD_BYTES
) -> Export:
    """Export the images of a run.

    Args:
        folder: Of a run, or of runs.
        to: ``webdataset``; ``parquet``; or ``hf``, a folder that ``datasets.load_dataset`` and
            the Hub read by its name alone.
        out: Where the export goes, in place of an earlier one; ``export/<to>`` in the folder if
            None. Others may read it as the umask says, prompts included.
        shard_bytes: Bytes of images beyond which another file is begun.

    Returns:
        What it holds.

    Raises:
        ConfigurationError: If the format is not known or its library not installed; if there is
            no run, or none of its images can be taken; if ``out`` holds anything but an earlier
            export, or the disk does not take it. What was there stays.
    """
    if to not in SUFFIXES:
        raise ConfigurationError(f"The format must be one of {', '.join(SUFFIXES)}.")
    if SUFFIXES[to] == ".parquet":
        arrow()
    folder = folder.resolve()
    target = (folder / "export" / to if out is None else out).resolve()
    runs = runs_in(folder)
    try:
        with replacing(target) as part, tempfile.TemporaryFile(dir=part) as spool:
            listed = read_lists(folder, runs, spool)
            made = _fill(part, folder, listed, _Shards(part, to, listed, shard_bytes))
            finish(part, {"format": to, **made})
        return Export(target, **made)
    except OSError as error:
        raise ConfigurationError(
            f"The export was not made: {disk.cannot_write(target, error)}; make room, or choose "
            "another folder."
        ) from None


def _fill(part: Path, folder: Path, listed: Listed, shards: _Shards) -> dict[str, Any]:
    """Write the export and return what it holds."""
    skipped: Counter[str] = Counter()
    if listed.junk:
        skipped["not a row"] = listed.junk
    with (part / SKIPPED).open("xb") as file:

        def leave_out(name: str, reason: str) -> None:
            skipped[reason] += 1
            file.write(lists.line({"file_name": name, "reason": reason}))

        with shards:
            for sample in samples(folder, listed, leave_out):
                shards.add(sample)
    if not shards.images:
        why = f": {told(skipped)}" if skipped else ""
        raise ConfigurationError(
            f"{printable(str(folder), 300)} has no image to export{why}; run its batch first."
        )
    count = shards.finish()
    return {"images": shards.images, "bytes": shards.bytes, "shards": count, "skipped": skipped}


def told(skipped: Mapping[str, int]) -> str:
    """Return in a few words how many rows were left out, and why."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


class _Shards:
    """The files of an export, one after the other."""

    def __init__(self, part: Path, to: str, listed: Listed, limit: int) -> None:
        self.images = self.bytes = 0
        self._folder = part / "data" if to == "hf" else part
        self._folder.mkdir(exist_ok=True)
        self._card = part / "README.md" if to == "hf" else None
        self._suffix = SUFFIXES[to]
        self._types = listed.columns.types()
        self._limit = limit
        self._paths: list[Path] = []
        self._shard: _Shard | None = None
        self._filled = 0

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A disk that is full fails once more when what waits is written; the first word counts.
        with contextlib.suppress(*(disk.TROUBLE if kind else ())):
            self._close()

    def add(self, sample: Sample) -> None:
        """Add an image to the file that is being filled, or to the next one."""
        if self._filled and self._filled + len(sample.image) > self._limit:
            self._close()
        if self._shard is None:
            self._shard = self._next()
        self._shard.add(f"{self.images:09}", sample.row, sample.image, sample.suffix)
        self._filled += len(sample.image)
        self.bytes += len(sample.image)
        self.images += 1

    def finish(self) -> int:
        """Give the files their names, with their number in them, and return it."""
        count = len(self._paths)
        for path in self._paths:
            path.rename(path.with_name(f"{path.stem}-of-{count:05}{self._suffix}"))
        if self._card is not None:
            self._card.write_text(CARD.format(images=self.images), "utf-8")
        return count

    def _next(self) -> _Shard:
        # The word train is the split by which datasets tells these files from the others.
        path = self._folder / f"train-{len(self._paths):05}{self._suffix}"
        self._paths.append(path)
        return TarShard(path) if self._suffix == ".tar" else ParquetShard(path, self._types)

    def _close(self) -> None:
        shard, self._shard, self._filled = self._shard, None, 0
        if shard is not None:
            shard.close()
