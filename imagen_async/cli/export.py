"""``imagen-async export``: a batch's images in a format that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from imagen_async.cli.console import note, result
from imagen_async.cli.exits import DONE, PARTIAL
from imagen_async.integrations.export import SKIPPED, export, told
from imagen_async.wire.text import printable


def export_batch(folder: str, *, to: str, out: str | None, shard_size: int, as_json: bool) -> int:
    """Write an export and print its path.

    Args:
        folder: Of a batch, or of its shards.
        to: The format.
        out: Where the export goes, or None.
        shard_size: MiB of images beyond which another file is begun.
        as_json: Whether the result is an object.

    Raises:
        ConfigurationError: If there is nothing to export, or no place for it.
    """
    made = export(Path(folder), to, Path(out) if out else None, shard_bytes=shard_size << 20)
    if made.skipped:
        where = printable(str(made.path / SKIPPED), 300)
        note(f"Note: left out {told(made.skipped)}; see {where}.")
    result(json.dumps(attrs.asdict(made), default=str) if as_json else str(made.path))
    return PARTIAL if made.skipped else DONE
