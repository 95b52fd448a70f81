"""Where images go: into memory, or onto the disk under names of ours."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from inspect import GEN_CREATED, getgeneratorstate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import attrs

from imagen_async.storage import disk
from imagen_async.storage.file_names import file_name
from imagen_async.storage.offload import in_thread, run_alone, run_batched
from imagen_async.storage.sinks import FileSink, MemorySink
from imagen_async.wire.finding import CUT, look
from imagen_async.wire.image import Image
from imagen_async.wire.image_header import UNKNOWN, inspect, suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagen_async.storage.offload import Steps
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.finding import Finding
    from imagen_async.wire.image_header import Media

LARGE = 4 * 1024 * 1024
"""Bytes of images in memory above which joining them would stall the loop for milliseconds."""


@attrs.frozen(eq=False, repr=False)
class Stored:
    """An image that is where it belongs.

    Args:
        image: With its path or data, its type and its size in pixels.
        size: Bytes.
        sha256: Of the bytes, in hexadecimal, if it was asked for.
        note: What is odd about the bytes, one line.
        cut: Whether they begin as an image and end too early.
    """

    image: Image
    size: int
    sha256: str | None = None
    note: str | None = None
    cut: bool = False


@attrs.frozen(eq=False, repr=False)
class StoreFailure:
    """Bytes that could not be kept.

    Args:
        problem: Why, as the rest of a sentence; a disk's problem names the path.
        disk: Whether the disk did not take them; else they are nothing worth keeping.
        cut: Whether they begin as an image and end too early.
        image: With the bytes that the disk did not take, or a file that may not be durable.
    """

    problem: str
    disk: bool = False
    cut: bool = False
    image: Image | None = None


class ImageStore(Protocol):
    """Where the images of one call go."""

    def open(self) -> Sink:
        """Return a sink for the next image."""
        ...

    async def keep(
        self, sinks: Sequence[Sink], numbers: Sequence[int | None], *, linked: bool = False
    ) -> list[Stored | StoreFailure]:
        """Make closed sinks' images durable and visible.

        Args:
            sinks: From ``open`` of this store.
            numbers: Each image's number for its name; None if the call brought only one.
            linked: Whether they came from a link, which may lead to an error's text instead, and
                where what was cut can be had again.

        Returns:
            What became of each, in the same order.
        """
        ...


class MemoryStore:
    """Keeps images in memory, as ``image.data``."""

    def open(self) -> Sink:
        """Return a sink that gathers bytes."""
        return MemorySink()

    async def keep(
        self,
        sinks: Sequence[Sink],
        numbers: Sequence[int | None],  # noqa: ARG002 - memory knows no names
        *,
        linked: bool = False,
    ) -> list[Stored | StoreFailure]:
        """Return each image with its bytes; large ones are joined in a thread."""
        parts = [cast("MemorySink", sink) for sink in sinks]
        if sum(part.size for part in parts) <= LARGE:
            return [_in_memory(part, linked) for part in parts]
        return await in_thread(lambda: [_in_memory(part, linked) for part in parts])


@attrs.frozen(eq=False, repr=False)
class _Unplaced:
    """A hidden file that is to get its name."""

    sink: FileSink
    found: Finding
    sha256: str | None


class FolderStore:
    """Keeps images as files of one folder, which is created if it is missing.

    Args:
        folder: Where they go; a file is first written hidden in the same folder.
        stem: Begins the names, as a slug.
        digest12: Twelve hexadecimal digits that tell this call's files from all others.
        replace: Whether a file of the same name gives way; else the next free number is taken.
        sha256: Whether to compute each file's SHA-256.
    """

    def __init__(
        self,
        folder: disk.StrPath,
        stem: str,
        digest12: str,
        *,
        replace: bool = False,
        sha256: bool = False,
    ) -> None:
        self._folder = os.fspath(folder)
        self._stem = stem
        self.digest = digest12
        self._replace = replace
        self._sha256 = sha256

    def open(self) -> Sink:
        """Return a sink that writes to a hidden file."""
        return FileSink(self._folder, self.digest)

    async def keep(
        self, sinks: Sequence[Sink], numbers: Sequence[int | None], *, linked: bool = False
    ) -> list[Stored | StoreFailure]:
        """Sync and rename in one visit to a thread; the first image is renamed last.

        So the first image's presence says that all of the call are there. Once the thread has
        begun, it ends its work whatever becomes of the caller.
        """
        parts = [cast("FileSink", sink) for sink in sinks]
        steps = self._steps(parts, numbers, linked)
        if all(sink.part is None for sink in parts):
            return await run_batched(steps)
        try:
            return await run_alone(steps)
        finally:
            if getgeneratorstate(steps) == GEN_CREATED:
                for sink in parts:
                    sink.discard()

    def _steps(
        self, sinks: Sequence[FileSink], numbers: Sequence[int | None], linked: bool
    ) -> Steps[list[Stored | StoreFailure]]:
        checked: list[_Unplaced | StoreFailure] = []
        for sink, number in zip(sinks, numbers, strict=True):
            found = self._check(sink, number, linked)
            yield None
            if found is None:  # what the works before it held open is closed by now
                with disk.patient():
                    found = self._check(sink, number, linked, waits=False)
            assert found is not None
            checked.append(self._sync(found, number))
        yield None
        placed = [self._place(*each) for each in reversed([*zip(checked, numbers, strict=True)])]
        results = placed[::-1]
        problem = None
        if any(isinstance(result, Stored) for result in results):
            problem = yield self._folder
        return results if problem is None else [self._unsafe(each, problem) for each in results]

    def _check(
        self, sink: FileSink, number: int | None, linked: bool, *, waits: bool = True
    ) -> _Unplaced | StoreFailure | None:
        """Look at one image's bytes; of a small one, write the file.

        Returns:
            None if it has to wait for a free descriptor, and may.
        """
        sink.close()
        if sink.problem is not None:
            return self._failed(sink, number)
        try:
            with sink.view() as view:
                found = look(view, linked=linked)
                hashed = self._sha256 and found.kept
                digest = hashlib.sha256(view).hexdigest() if hashed else None
            if found.kept:
                sink.store()
                return _Unplaced(sink, found, digest)
        except disk.TROUBLE as error:
            if waits and disk.is_scarce(error):
                return None
            return self._failed(sink, number, error)
        sink.discard()
        return _lost(found)

    def _sync(
        self, stored: _Unplaced | StoreFailure, number: int | None
    ) -> _Unplaced | StoreFailure:
        if isinstance(stored, StoreFailure):
            return stored
        try:
            stored.sink.sync()
        except disk.TROUBLE as error:
            # A sync that failed is not tried again: the pages it lost count as clean afterwards.
            return self._failed(stored.sink, number, error)
        return stored

    def _place(self, stored: _Unplaced | StoreFailure, number: int | None) -> Stored | StoreFailure:
        if isinstance(stored, StoreFailure):
            return stored
        sink, found = stored.sink, stored.found
        assert sink.part is not None
        try:
            names = self._names(number, found.ending)
            path = disk.place(sink.part, names, replace=self._replace)
        except disk.TROUBLE as error:
            return self._failed(sink, number, error)
        image = as_image(found.media, path=Path(path))
        return Stored(image, sink.size, stored.sha256, found.note, found.cut)

    def _unsafe(self, result: Stored | StoreFailure, error: Exception) -> StoreFailure:
        """Return an image whose name a power cut may take."""
        if isinstance(result, StoreFailure):
            return result
        problem = disk.cannot_write(self._folder, error)
        return StoreFailure(problem, disk=True, image=result.image)

    def _failed(
        self, sink: FileSink, number: int | None, error: Exception | None = None
    ) -> StoreFailure:
        """Return why the disk does not take an image, with its bytes, or its file if it has one."""
        image: Image | None = None
        with contextlib.suppress(*disk.TROUBLE), disk.patient():
            sink.fail(error)
            if sink.part is not None:  # not to be read, and a hidden file would be swept away
                image = Image(path=Path(sink.part))
                names = self._names(number, ("" if sink.ended else CUT) + suffix(UNKNOWN))
                path = disk.place(sink.part, names, replace=self._replace)
                image = Image(path=Path(path), media_type=UNKNOWN)
            elif sink.size and len(data := sink.whole()) == sink.size:
                image = Image(data=data, media_type=UNKNOWN)
                image = as_image(inspect(data), data=data)
        return StoreFailure(sink.problem or "cannot write it", disk=True, image=image)

    def _names(self, number: int | None, ending: str) -> Iterator[str]:
        numbers = itertools.chain([number], itertools.count(2 if number is None else number + 1))
        for each in numbers:
            name = file_name(self._stem, self.digest, each, ending)
            yield os.path.join(self._folder, name)  # noqa: PTH118


def _in_memory(sink: MemorySink, linked: bool) -> Stored | StoreFailure:
    image: Image | None = None
    try:
        data = sink.taken()
        image = Image(data=data, media_type=UNKNOWN)
        found = look(data, linked=linked)
        if not found.kept:
            return _lost(found)
        return Stored(as_image(found.media, data=data), len(data), None, found.note, found.cut)
    except disk.TROUBLE as error:
        return StoreFailure(f"cannot hold it: {type(error).__name__}", disk=True, image=image)


def _lost(found: Finding) -> StoreFailure:
    return StoreFailure(found.note or "", cut=found.cut)


def as_image(media: Media, *, path: Path | None = None, data: bytes | None = None) -> Image:
    """Return an image that is told by its bytes."""
    return Image(
        path=path,
        data=data,
        media_type=media.media_type,
        width=media.width,
        height=media.height,
    )
