"""One set of lists, one report and one gallery over all shards of a batch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from imagen_async.batch import lists
from imagen_async.batch.gallery import write_gallery
from imagen_async.batch.shard_root import read_root
from imagen_async.batch.shards import all_shards
from imagen_async.batch.status import BatchStatus, FolderStatus, folder_status, whole_rows
from imagen_async.batch.workers import take
from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from imagen_async.batch.ports import JournalView


def merge(root: Path, *, gallery: bool = True) -> BatchStatus:
    """Write the lists, the report and the gallery of all shards into the folder over them.

    Nothing is sent, and no shard is changed; it may be repeated at any time. A shard that runs is
    told by the lists that it has written so far.

    Args:
        root: The folder over the shards' folders.
        gallery: Whether to write ``index.html``.

    Returns:
        How the batch stands, as ``report.json`` then says.

    Raises:
        ConfigurationError: If it is no such folder, if another process merges it, if a shard's
            journal cannot be trusted, or if the disk does not take the files.
    """
    begun, shown = read_root(root), printable(str(root), 300)
    if begun is None:
        raise ConfigurationError(f"{shown} holds no shards; name the folder given as --out.")
    with ExitStack() as stack:
        if not take(root / ".merge", stack):
            raise ConfigurationError(f"{shown} is being merged by another process; wait for it.")
        return _merge(root, begun.shards, gallery=gallery)


def _merge(root: Path, shards: int, *, gallery: bool) -> BatchStatus:
    try:
        with lists.replaced(root) as add:
            found = tuple(_add(root / shard.name, add) for shard in all_shards(shards))
        status = BatchStatus(folders=found, shards=shards)
        lists.write_report(root, status.as_json())
        if gallery:
            write_gallery(root)
    except OSError as error:
        raise ConfigurationError(f"{disk.cannot_write(root, error)}.") from None
    return status


def _add(folder: Path, add: Callable[[Iterable[lists.Line]], None]) -> FolderStatus:
    """Add the lines of one shard; its journal is the truth where its lists may not be."""
    home = f"{folder.name}/"

    def read(journal: JournalView | None) -> None:
        add(whole_rows(folder, home) if journal is None else lists.all_lines(journal, home))

    return folder_status(folder, read)
