"""Where an item's images lie, which of them a dead run left behind, and what that proves."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from imagen_async.batch.records import KeptImage
from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.storage.file_names import file_name
from imagen_async.storage.stores import FolderStore, Stored
from imagen_async.wire.finding import CUT, look
from imagen_async.wire.image_header import SUFFIXES
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from imagen_async.batch.records import Item
    from imagen_async.storage.stores import StoreFailure
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.image import Image

IMAGES = "images"
NEIGHBOURS = 1024
"""Rows in a row whose images share a folder."""
_PART = re.compile(r"\.([0-9a-f]{12})-[0-9a-f]{16}\.part")
_HOME = re.compile(r"[0-9a-f]{2}")
_ENDING = rf"(?:{re.escape(CUT)})?(?:{'|'.join(map(re.escape, SUFFIXES.values()))})"
_NAMED = re.compile(rf".+-([0-9a-f]{{12}})(?:-([1-9][0-9]*))?{_ENDING}")
_OWNERS = re.compile(rf"[^/]+-([0-9a-f]{{12}})(?:-[1-9][0-9]*)?{_ENDING}(?=/|$)")
"""The digits of each name of many, with what no name can hold between them."""


class ItemFiles(FolderStore):
    """Puts one item's images into the run's folder and remembers their sizes and hashes.

    Neighbours of the input share a folder of images, so that one sync makes the names of all
    that are in flight durable; whose a file is, its own name tells.

    Args:
        folder: The run's folder.
        item: Whose images they are.
        after: What the files' numbers come after: those of the item's earlier orders are not
            written over.
    """

    def __init__(self, folder: Path, item: Item, after: int = 0) -> None:
        self.home: str = f"{folder}{os.sep}{IMAGES}{os.sep}{item.position // NEIGHBOURS % 256:02x}"
        super().__init__(self.home, item.row.request.prompt, item.digits, replace=True, sha256=True)
        self.after = after
        self.kept: dict[Path, Stored] = {}

    async def keep(
        self, sinks: Sequence[Sink], numbers: Sequence[int | None], *, linked: bool = False
    ) -> list[Stored | StoreFailure]:
        """Make images durable and visible, the first one last."""
        numbers = [None if number is None else number + self.after for number in numbers]
        results = await super().keep(sinks, numbers, linked=linked)
        for result in results:
            if isinstance(result, Stored) and result.image.path is not None:
                self.kept[result.image.path] = result
        return results

    def left(self) -> list[str]:
        """Return the paths of all files of the item in its folder of images, hidden ones too."""
        return [entry.path for entry in _entries(self.home) if self.digest in entry.name]


def described(
    image: Image, kept: Mapping[Path, Stored], before: Mapping[str, KeptImage]
) -> KeptImage:
    """Return what the journal keeps of an image: its file, or the link it waits behind.

    Args:
        image: With a path in the run's folder, or a link, or bytes that the disk did not take.
        kept: By path: what was stored in this run.
        before: By file name: the images that the journal had before.
    """
    path = image.path
    name = None if path is None else _name_of(path)
    here = None if path is None else kept.get(path)
    earlier = None if name is None else before.get(name)
    if here is not None:
        size: int | None = here.size
        sha256 = here.sha256
    elif earlier is not None:
        size, sha256 = earlier.bytes, earlier.sha256
    else:  # no file, or one that may not last
        return KeptImage(url=image.url, revised_prompt=image.revised_prompt)
    return KeptImage(
        file_name=name,
        width=image.width,
        height=image.height,
        media_type=image.media_type,
        bytes=size,
        sha256=sha256,
        url=image.url,
        revised_prompt=image.revised_prompt,
    )


def survey(
    folder: Path, owned: Callable[[str], bool], sought: set[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Look through the images of a run: 200,000 of them in under a second.

    An image is on the disk only after its item was in the journal, so one that no item owns
    proves that the journal has lost commits.

    Args:
        folder: The run's folder.
        owned: Tells whether an item's files are named by 12 hexadecimal digits.
        sought: The digits of the items whose files are to be told.

    Returns:
        The hidden files of writes that did not end, and all files of each item that is sought.

    Raises:
        ConfigurationError: If an image belongs to no item, or a folder of images is none.
    """
    parts: list[str] = []
    files: dict[str, list[str]] = {}
    root = folder / IMAGES
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise _misplaced(root)
    for home in _entries(root):
        if not home.is_dir(follow_symlinks=False):
            if _HOME.fullmatch(home.name):
                raise _misplaced(home.path)
            continue
        names = os.listdir(home.path)  # noqa: PTH208 - no path is made of a million names
        # In one go: to call a function for each name takes thrice as long.
        owners = _OWNERS.findall("/".join(names))
        for digits in owners:
            if not owned(digits):
                raise _stray(next(f"{home.path}/{name}" for name in names if digits in name))
        hidden = [found for name in names if name[0] == "." and (found := _PART.fullmatch(name))]
        parts += [f"{home.path}/{found[0]}" for found in hidden]
        for digits in sought & {*owners, *(found[1] for found in hidden)}:
            files.setdefault(digits, []).extend(
                f"{home.path}/{name}" for name in names if digits in name
            )
    return parts, files


def _stray(path: str) -> ConfigurationError:
    return ConfigurationError(
        f"{printable(path, 300)} belongs to no item of the journal: the journal is older than its "
        "images, or the file is not ours; restore or move it."
    )


def _misplaced(path: Path | str) -> ConfigurationError:
    return ConfigurationError(
        f"{printable(str(path), 300)} is not the folder that the batch made: a file or a link is "
        "in its place; put the folder back."
    )


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def rescue(item: Item, files: Iterable[str]) -> tuple[list[KeptImage], bool]:
    """Find the images of an item whose call was cut off by the end of its process.

    Hidden files that are whole images get names, and so do those whose end cannot be told, as
    cut ones; the others are removed. Files that the journal has say nothing of this call.

    Args:
        item: As the journal has it.
        files: The paths of all its files.

    Returns:
        The images, and whether they are all that the answer held, one of them whole: the first
        is named last, so its name vouches for the others.

    Raises:
        OSError: If the disk fails.
    """
    request, names = item.row.request, item.files
    paths = sorted(map(Path, files), key=lambda path: path.name)
    named = {
        path: int(found[2] or 0)
        for path in paths
        if (found := _NAMED.fullmatch(path.name))
        and found[1] == item.digits
        and _name_of(path) not in names
    }
    numbers, first = sorted(set(named.values())), highest(names) + 1
    whole = 0 in numbers or (bool(numbers) and numbers == list(range(first, first + len(numbers))))
    for path in paths:
        if (found := _PART.fullmatch(path.name)) and found[1] == item.digits:
            _name_part(path, named, request.prompt, item.digits, first)
    for home in {path.parent for path in named}:
        disk.sync_folder(home)
    images = [_found(path) for path, _ in sorted(named.items(), key=lambda pair: pair[1])]
    sound = sum(not is_cut(path.name) for path in named)
    enough = request.n is not None and sound >= request.n
    return images, bool(sound) and (whole or enough)


def is_cut(name: str) -> bool:
    """Return whether a file's name says that it holds what came of an image, not all of it."""
    return name.rpartition(".")[0].endswith(CUT)


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


def _found(path: Path) -> KeptImage:
    data = path.read_bytes()
    media = look(data, linked=False).media
    return KeptImage(
        file_name=_name_of(path),
        width=media.width,
        height=media.height,
        media_type=media.media_type,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _name_of(path: Path) -> str:
    """Return an image's name relative to the run's folder."""
    return "/".join(path.parts[-3:])
