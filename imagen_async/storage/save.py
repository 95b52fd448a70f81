"""One image's file, as the user names it: written whole and durably, and read."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import warnings
from typing import TYPE_CHECKING

from imagen_async.errors import Charge, ImagenError, SaveError
from imagen_async.storage import disk
from imagen_async.storage.offload import in_thread
from imagen_async.storage.stores import as_image
from imagen_async.wire.image_header import UNKNOWN, inspect, suffix
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imagen_async.wire.image import Image

_SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".apng": ".png", ".avifs": ".avif"}
_SUFFIX = re.compile(r"[^.]\.[a-z][a-z0-9]{1,9}$", re.IGNORECASE)
# "v1.5" has none, whatever pathlib says of it.


async def read_file(image: Image) -> bytes:
    """Return the bytes of an image's file.

    Raises:
        ImagenError: If it cannot be read.
    """
    path = image.path
    assert path is not None

    def read() -> bytes | str:
        try:
            with disk.patient():
                return disk.read_file(path)
        except disk.TROUBLE as error:
            return disk.reason(error)

    data = await in_thread(read)
    if isinstance(data, bytes):
        return data
    shown = printable(str(path), 1000)
    raise ImagenError(f"{shown} cannot be read: {data}.", charge=Charge.YES, images=(image,))


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
    media = inspect(data)
    found, ending = media.media_type, suffix(media.media_type)
    written, problem = await in_thread(lambda: _written(data, path, ending, overwrite=overwrite))
    if problem is not None:
        raise SaveError(
            f"The image is here, but we {problem}.",
            charge=Charge.YES,
            images=(as_image(media, data=data),),
        )
    given = written.suffix.lower()
    if found != UNKNOWN and _SAME.get(given, given) != ending:
        warnings.warn(
            f"{printable(written.name, 200)} holds {found}; the name is kept as it was given.",
            UserWarning,
            stacklevel=3,
        )
    return written


def _written(data: bytes, path: Path, ending: str, *, overwrite: bool) -> tuple[Path, str | None]:
    try:
        with disk.patient():
            return _write(data, path, ending, overwrite=overwrite), None
    except disk.TROUBLE as error:
        return path, disk.cannot_write(path, error)


def _write(data: bytes, path: Path, ending: str, *, overwrite: bool) -> Path:
    digest = hashlib.sha256(data).hexdigest()[:12]
    if path.is_dir():
        path = path / f"image-{digest}{ending}"
    elif not _SUFFIX.search(path.name):
        path = path.with_name(path.name + ending)
    descriptor, part = disk.open_part(str(path.parent), digest)
    try:
        try:
            disk.write_all(descriptor, data)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        written = disk.place(part, _numbered(path), replace=overwrite)
    except disk.TROUBLE:
        disk.remove(part)
        raise
    disk.sync_folder(path.parent)
    return written


def _numbered(path: Path) -> Iterable[Path]:
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return itertools.chain([path], others)
