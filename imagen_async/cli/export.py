"""``imagen-async export``: a batch's images in a format that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from imagen_async.cli.console import note, result
from imagen_async.cli.exits import DONE, PARTIAL
from imagen_async.integrations.export import SKIPPED, export, told
from imagen_async.wire.text import printable


@attrs.frozen(kw_only=True)
class ExportFlags:
    """What the command was given.

    Args:
        folder: Of a batch, or of its shards.
        to: The format.
        out: Where the export goes, or None.
        shard_size: MiB of images beyond which another file is begun.
        as_json: Whether the result is an object.
    """

    folder: str
    to: str
    out: str | None
    shard_size: int
    as_json: bool


def export_batch(flags: ExportFlags) -> int:
    """Write an export and print its path.

    Raises:
        ConfigurationError: If there is nothing to export, or no place for it.
    """
    out = None if flags.out is None else Path(flags.out)
    made = export(Path(flags.folder), flags.to, out, shard_bytes=flags.shard_size << 20)
    if made.skipped:
        where = printable(str(made.path / SKIPPED), 300)
        note(f"Note: left out {told(made.skipped)}; see {where}.")
    result(json.dumps(attrs.asdict(made), default=str) if flags.as_json else str(made.path))
    return PARTIAL if made.skipped else DONE
