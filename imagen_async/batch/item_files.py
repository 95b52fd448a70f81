"""Where an item's images lie, which of them a dead run left behind, and what that proves."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.storage import disk
from imagen_async.storage.file_names import file_name, slug
from imagen_async.storage.stores import FolderStore, Stored
from imagen_async.wire.finding import CUT, look
from imagen_async.wire.image_header import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from imagen_async.storage.stores import StoreFailure
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.generation import Image
    from imagen_async.wire.request import GenerationRequest

IMAGES = "images"
_PART = re.compile(r"\.([0-9a-f]{12})-[0-9a-f]{16}\.part")
_HOME = re.compile(r"[0-9a-f]{2}")
_NAMED = re.compile(
    rf".+-([0-9a-f]{{12}})(?:-([1-9][0-9]*))?({re.escape(CUT)})?"
    rf"(?:{'|'.join(map(re.escape, SUFFIXES.values()))})"
)


class ItemFiles:
    """Puts one item's images into the run's folder and remembers their sizes and hashes.

    Args:
        folder: The run's folder.
        identity: The item's id.
        prompt: Begins the files' names.
        after: What the files' numbers come after: those of the item's earlier orders are not
            written over.
    """

    def __init__(self, folder: Path, identity: bytes, prompt: str, after: int = 0) -> None:
        digest = identity.hex()
        self.after = after
        self._inner = FolderStore(
            _home(folder, identity), slug(prompt), digest[:12], replace=True, sha256=True
        )
        self.kept: dict[Path, Stored] = {}

    def open(self) -> Sink:
        """Return a sink that writes to a hidden file."""
        return self._inner.open()

    async def keep(
        self, sinks: Sequence[Sink], numbers: Sequence[int | None], *, linked: bool = False
    ) -> list[Stored | StoreFailure]:
        """Make images durable and visible, the first one last."""
        numbers = [None if number is None else number + self.after for number in numbers]
        results = await self._inner.keep(sinks, numbers, linked=linked)
        for result in results:
            if isinstance(result, Stored) and result.image.path is not None:
                self.kept[result.image.path] = result
        return results


def described(
    image: Image, kept: Mapping[Path, Stored], before: Mapping[str | None, Any]
) -> dict[str, Any]:
    """Return what the journal keeps of an image: its file, or the link it waits behind.

    Args:
        image: With a path in the run's folder, or a link, or bytes that the disk did not take.
        kept: By path: what the shelf kept in this run.
        before: By file name: what the journal said of the item's images before.
    """
    path = image.path
    name = None if path is None else f"{IMAGES}/{path.parent.name}/{path.name}"
    here = None if path is None else kept.get(path)
    earlier = before.get(name, {})
    if name is None or (here is None and not earlier):  # a file that may not last is none
        return {"url": image.url, "revised_prompt": image.revised_prompt}
    return {
        "file_name": name,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "bytes": earlier.get("bytes") if here is None else here.size,
        "sha256": earlier.get("sha256") if here is None else here.sha256,
        "url": image.url,
        "revised_prompt": image.revised_prompt,
    }


@attrs.frozen
class Leftovers:
    """What lies in a run's folder beside what its journal says.

    Args:
        parts: Hidden files of writes that did not end.
        foreign: A finished image of no item of the journal, if there is one.
        misplaced: A file or a link where a folder of images should be, if there is one.
    """

    parts: tuple[Path, ...] = ()
    foreign: Path | None = None
    misplaced: Path | None = None


def survey(folder: Path, owned: Callable[[str], bool]) -> Leftovers:
    """Look through the images of a run: 200,000 of them in under a second.

    An image is on the disk only after its item was in the journal, so one that no item owns
    proves that the journal has lost commits.

    Args:
        folder: The run's folder.
        owned: Tells whether an item's files are named by 12 hexadecimal digits.
    """
    parts: list[Path] = []
    root = folder / IMAGES
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        return Leftovers(misplaced=root)
    for home in _entries(root):
        if not home.is_dir(follow_symlinks=False):
            if _HOME.fullmatch(home.name):
                return Leftovers(misplaced=Path(home.path))
            continue
        for entry in _entries(Path(home.path)):
            if _PART.fullmatch(entry.name):
                parts.append(Path(entry.path))
            elif (found := _NAMED.fullmatch(entry.name)) and not owned(found[1]):
                return Leftovers(tuple(parts), Path(entry.path))
    return Leftovers(tuple(parts))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def rescue(
    folder: Path, identity: bytes, request: GenerationRequest, names: Collection[str] = ()
) -> tuple[list[Any], bool]:
    """Find the images of an item whose call was cut off by the end of its process.

    Hidden files that are whole images get names, and so do those whose end cannot be told, as
    cut ones; the others are removed.

    Args:
        folder: The run's folder.
        identity: The item's id.
        request: What was asked.
        names: Of the item's files from earlier orders, which say nothing of this one.

    Returns:
        Descriptions of the images, and whether they are all that the answer held, one of them
        whole: the first is named last, so its name vouches for the others.

    Raises:
        OSError: If the disk fails.
    """
    home, digest = _home(folder, identity), identity.hex()[:12]
    entries = sorted(_entries(home), key=lambda entry: entry.name)
    named = {
        Path(entry.path): int(found[2] or 0)
        for entry in entries
        if (found := _NAMED.fullmatch(entry.name))
        and found[1] == digest
        and f"{IMAGES}/{home.name}/{entry.name}" not in names
    }
    numbers, first = sorted(set(named.values())), highest(names) + 1
    whole = 0 in numbers or (bool(numbers) and numbers == list(range(first, first + len(numbers))))
    for entry in entries:
        found = _PART.fullmatch(entry.name)
        if found and found[1] == digest:
            _name_part(Path(entry.path), named, slug(request.prompt), digest, first)
    if named:
        disk.sync_folder(home)
    images = [_found(path) for path, _ in sorted(named.items(), key=lambda pair: pair[1])]
    sound = sum(not is_cut(path.name) for path in named)
    enough = request.n is not None and sound >= request.n
    return images, bool(sound) and (whole or enough)


def is_cut(name: str) -> bool:
    """Return whether a file's name says that it holds what came of an image, not all of it."""
    return Path(name).stem.endswith(CUT)


def sweep(parts: Sequence[Path]) -> None:
    """Remove the hidden files of writes that did not end."""
    for part in parts:
        disk.remove(part)


def _name_part(part: Path, named: dict[Path, int], stem: str, digest: str, first: int) -> None:
    """Give a hidden file a name, unless it is known that its image is not whole."""
    found = look(part.read_bytes(), linked=False)
    if found.cut or not found.kept:
        disk.remove(part)
        return
    ending = found.ending if found.media.raster else CUT + found.ending
    descriptor = disk.reopen(part)
    try:
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    # After the first: that, or a name without number, would vouch for images that never came.
    number = max([first, *named.values()]) + 1
    target = part.with_name(file_name(stem, digest, number, ending))
    named[disk.place(part, [target], replace=True)] = number


def highest(names: Iterable[str]) -> int:
    """Return the highest number that files' names end with, 0 if there is none."""
    found = (_NAMED.fullmatch(name) for name in names)
    return max((int(each[2] or 0) for each in found if each), default=0)


def _found(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    media = look(data, linked=False).media
    return {
        "file_name": f"{IMAGES}/{path.parent.name}/{path.name}",
        "width": media.width,
        "height": media.height,
        "media_type": media.media_type,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _home(folder: Path, identity: bytes) -> Path:
    return _home_of(folder, identity[:1].hex())


@functools.lru_cache(maxsize=1024)
def _home_of(folder: Path, digits: str) -> Path:
    # Cached: joining paths costs more than all else that is done to name a file.
    return folder / IMAGES / digits
