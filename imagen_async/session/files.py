"""Where images go: into memory, or onto the disk under names of ours."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import warnings
from inspect import GEN_CREATED, getgeneratorstate
from typing import TYPE_CHECKING, Protocol, cast

import attrs

from imagen_async.errors import Charge, SaveError
from imagen_async.policy.names import file_name
from imagen_async.session import disk
from imagen_async.session.sinks import FileSink, MemorySink
from imagen_async.session.threads import alone, in_thread, together
from imagen_async.wire.generation import Image
from imagen_async.wire.media import inspect, suffix
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from imagen_async.session.threads import Steps
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.media import Media

LARGE = 4 * 1024 * 1024
"""Bytes of images in memory above which joining them would stall the loop for milliseconds."""
_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".apng": ".png", ".avifs": ".avif"}
_SUFFIX = re.compile(r"[^.]\.[a-z][a-z0-9]{1,9}$", re.IGNORECASE)
# "v1.5" has none, whatever pathlib says of it.
_HEAD = 1024
_PAGES = (
    (("<!doctype html", "<html", "<head", "<body"), "an HTML page"),
    (("<svg",), "an SVG drawing"),
    (("<?xml", "<"), "an XML document"),
    (("{", "["), "a JSON document"),
)


@attrs.frozen
class Kept:
    """An image that is where it belongs.

    Args:
        image: With its path or data, its type and its size in pixels.
        size: Bytes.
        sha256: Of the bytes, in hexadecimal, if it was asked for.
    """

    image: Image
    size: int
    sha256: str | None = None


@attrs.frozen
class Lost:
    """Bytes that could not be kept.

    Args:
        problem: Why, as the rest of a sentence; a disk's problem names the path.
        disk: Whether the disk did not take them; else they are not a whole image.
        cut: Whether they begin as an image and end too early.
    """

    problem: str
    disk: bool = False
    cut: bool = False


class Shelf(Protocol):
    """Where the images of one call go."""

    def open(self) -> Sink:
        """Return a sink for the next image."""
        ...

    async def keep(self, sinks: Sequence[Sink], numbers: Sequence[int | None]) -> list[Kept | Lost]:
        """Make closed sinks' images durable and visible.

        Args:
            sinks: From ``open`` of this shelf.
            numbers: Each image's number for its name; None if the call brought only one.

        Returns:
            What became of each, in the same order.
        """
        ...


class MemoryShelf:
    """Keeps images in memory, as ``image.data``."""

    def open(self) -> Sink:
        """Return a sink that gathers bytes."""
        return MemorySink()

    async def keep(
        self,
        sinks: Sequence[Sink],
        numbers: Sequence[int | None],  # noqa: ARG002 - memory knows no names
    ) -> list[Kept | Lost]:
        """Return each image with its bytes; large ones are joined in a thread."""
        parts = [cast("MemorySink", sink) for sink in sinks]
        if sum(part.size for part in parts) <= LARGE:
            return [_in_memory(part.taken()) for part in parts]
        return await in_thread(lambda: [_in_memory(part.taken()) for part in parts])


@attrs.frozen
class _Whole:
    """A hidden file that is a whole image."""

    sink: FileSink
    media: Media
    sha256: str | None


class FolderShelf:
    """Keeps images as files of one folder, which is created if it is missing.

    Args:
        folder: Where they go; a file is first written hidden in the same folder.
        slug: Begins the names.
        digest12: Twelve hexadecimal digits that tell this call's files from all others.
        replace: Whether a file of the same name gives way; else the next free number is taken.
        sha256: Whether to compute each file's SHA-256.
    """

    def __init__(
        self,
        folder: Path,
        slug: str,
        digest12: str,
        *,
        replace: bool = False,
        sha256: bool = False,
    ) -> None:
        self._folder = folder
        self._slug = slug
        self._digest = digest12
        self._replace = replace
        self._sha256 = sha256

    def open(self) -> Sink:
        """Return a sink that writes to a hidden file."""
        return FileSink(self._folder, self._digest)

    async def keep(self, sinks: Sequence[Sink], numbers: Sequence[int | None]) -> list[Kept | Lost]:
        """Sync and rename in one visit to a thread; the first image is renamed last.

        So the first image's presence says that all of the call are there. Once the thread has
        begun, it ends its work whatever becomes of the caller.
        """
        parts = [cast("FileSink", sink) for sink in sinks]
        steps = self._steps(parts, numbers)
        if all(sink.part is None for sink in parts):
            return await together(steps)
        try:
            return await alone(steps)
        finally:
            if getgeneratorstate(steps) == GEN_CREATED:
                for sink in parts:
                    sink.discard()

    def _steps(
        self, sinks: Sequence[FileSink], numbers: Sequence[int | None]
    ) -> Steps[list[Kept | Lost]]:
        checked: list[_Whole | Lost] = []
        for sink in sinks:
            found = self._check(sink)
            yield
            checked.append(self._sync(found))
        yield
        results: dict[int, Kept | Lost] = {}
        for index in reversed(range(len(checked))):
            results[index] = self._place(checked[index], numbers[index])
        yield
        return self._sync_names([results[index] for index in range(len(checked))])

    def _check(self, sink: FileSink) -> _Whole | Lost:
        """Look at one image's bytes; of a small one, write the file."""
        sink.close()
        if sink.problem is not None:
            return Lost(sink.problem, disk=True)
        try:
            with sink.view() as view:
                media = inspect(view)
                lost = _lost(media, view[:_HEAD])
                digest = hashlib.sha256(view).hexdigest() if self._sha256 and not lost else None
            if lost is None:
                sink.store()
                return _Whole(sink, media, digest)
        except OSError as error:
            return self._failed(sink, error)
        sink.discard()
        return lost

    def _sync(self, found: _Whole | Lost) -> _Whole | Lost:
        if isinstance(found, Lost):
            return found
        try:
            found.sink.sync()
        except OSError as error:
            # A sync that failed is not tried again: the pages it lost count as clean afterwards.
            return self._failed(found.sink, error)
        return found

    def _place(self, found: _Whole | Lost, number: int | None) -> Kept | Lost:
        if isinstance(found, Lost):
            return found
        sink, media = found.sink, found.media
        assert sink.part is not None
        try:
            names = self._names(number, suffix(media.media_type))
            path = disk.place(sink.part, names, replace=self._replace)
        except OSError as error:
            return self._failed(sink, error)
        return Kept(_image(media, path=path), sink.size, found.sha256)

    def _sync_names(self, results: list[Kept | Lost]) -> list[Kept | Lost]:
        if not any(isinstance(result, Kept) for result in results):
            return results
        try:
            disk.sync_folder(self._folder)
        except OSError as error:
            unsure = Lost(disk.cannot_write(self._folder, error), disk=True)
            return [unsure if isinstance(result, Kept) else result for result in results]
        return results

    def _failed(self, sink: FileSink, error: OSError) -> Lost:
        sink.fail(error)
        return Lost(disk.cannot_write(self._folder, error), disk=True)

    def _names(self, number: int | None, ending: str) -> Iterator[Path]:
        numbers = itertools.chain([number], itertools.count(2 if number is None else number + 1))
        for each in numbers:
            yield self._folder / file_name(self._slug, self._digest, each, ending)


async def write_file(data: bytes, path: Path, *, overwrite: bool) -> Path:
    """Write one image's bytes to a file, whole or not at all.

    Args:
        data: The image.
        path: The file, or an existing folder, where the name is made of the bytes. Without a
            suffix it gets that of the bytes; a suffix that disagrees is kept with a warning.
        overwrite: Whether an existing file gives way; else the name is numbered, ``name-2.png``.

    Returns:
        The path of the file that was written.

    Raises:
        SaveError: If the disk does not take it; nothing torn is left.
    """
    found = inspect(data).media_type
    ending = suffix(found) if found is not None else ""
    written, problem = await in_thread(lambda: _written(data, path, ending, overwrite=overwrite))
    if problem is not None:
        raise SaveError(f"The image is here, but we {problem}.", charge=Charge.YES)
    given = written.suffix.lower()
    if ending and _SAME.get(given, given) != ending:
        warnings.warn(
            f"{printable(written.name, 200)} holds {found}; the name is kept as it was given.",
            UserWarning,
            stacklevel=3,
        )
    return written


def _written(data: bytes, path: Path, ending: str, *, overwrite: bool) -> tuple[Path, str | None]:
    try:
        return _write(data, path, ending, overwrite=overwrite), None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        return path, disk.cannot_write(path, error)


def _write(data: bytes, path: Path, ending: str, *, overwrite: bool) -> Path:
    digest = hashlib.sha256(data).hexdigest()[:12]
    if path.is_dir():
        path = path / f"image-{digest}{ending}"
    elif not _SUFFIX.search(path.name):
        path = path.with_name(path.name + ending)
    descriptor, part = disk.open_part(path.parent, digest)
    try:
        try:
            disk.write_all(descriptor, data)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        written = disk.place(part, _numbered(path), replace=overwrite)
    except (OSError, ValueError):
        disk.remove(part)
        raise
    disk.sync_folder(path.parent)
    return written


def _numbered(path: Path) -> Iterable[Path]:
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return itertools.chain([path], others)


def _in_memory(data: bytes) -> Kept | Lost:
    media = inspect(data)
    return _lost(media, data[:_HEAD]) or Kept(_image(media, data=data), len(data))


def _image(media: Media, *, path: Path | None = None, data: bytes | None = None) -> Image:
    return Image(
        path=path,
        data=data,
        media_type=media.media_type,
        width=media.width,
        height=media.height,
    )


def _lost(media: Media, head: bytes) -> Lost | None:
    """Return why bytes are not a whole image, or None if they are one."""
    if media.media_type is None:
        return Lost(f"{_kind(head)} came instead of an image" if head else "it is empty")
    if media.problem is not None:
        return Lost(f"it {media.problem}")
    if not media.complete:
        return Lost(f"the {media.media_type} is cut short", cut=True)
    return None


def _kind(head: bytes) -> str:
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    if "<svg" in text and text.startswith("<"):
        return "an SVG drawing"
    return next((kind for starts, kind in _PAGES if text.startswith(starts)), "something else")
