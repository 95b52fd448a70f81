"""Images onto the disk and into memory."""

import asyncio
import errno
import hashlib
import mmap
import os
import random
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from imagen_async.errors import Charge, SaveError
from imagen_async.storage import disk
from imagen_async.storage.save import write_file
from imagen_async.storage.stores import FolderStore, MemoryStore, Stored, StoreFailure
from imagen_async.wire.decoder import Sink
from imagen_async.wire.image_header import UNKNOWN

DIGEST = "0123456789ab"


def png(width: int = 3, height: int = 2, filler: bytes = b"") -> bytes:
    """Return a whole PNG; filler goes into a chunk that nobody reads."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min((width + 1) * height, 10_000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"fiLl", filler)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


PNG = png()
BIG = png(filler=bytes(100_000))  # too big to wait in memory for its file
JPEG = bytes.fromhex(
    "ffd8ffc0000b080002000301011100ffda0008010100003f0000ffd9"
)  # 3 x 2 pixels, an empty scan


def shelf(folder: Path, **options: Any) -> FolderStore:
    return FolderStore(folder, "forest", DIGEST, **options)


def fed(target: FolderStore | MemoryStore, data: bytes, piece: int = 65_536) -> Sink:
    sink = target.open()
    for start in range(0, len(data), piece):
        sink.write(memoryview(data)[start : start + piece])
    sink.close()
    return sink


async def kept(target: FolderStore | MemoryStore, *images: bytes) -> list[Stored | StoreFailure]:
    numbers = [None] if len(images) == 1 else list(range(1, len(images) + 1))
    return await target.keep([fed(target, image) for image in images], numbers)


def failing(number: int, *, times: int = 1, calls: Callable[..., Any] | None = None) -> Any:
    """Return a stand-in that fails a few times with an errno, then does what it stands for."""
    left = [times]

    def fail(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        assert calls is not None
        return calls(*args, **kwargs)

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_one_image_gets_its_name_type_and_size(tmp_path: Path) -> None:
    """A whole image becomes a file of exactly its bytes, named by us."""
    data = png(40, 30, b"x" * 200_000)
    (result,) = await kept(shelf(tmp_path), data)
    assert isinstance(result, Stored)
    assert result.image.path == tmp_path / f"forest-{DIGEST}.png"
    assert result.image.path.read_bytes() == data
    assert (result.image.media_type, result.image.width, result.image.height) == (
        "image/png",
        40,
        30,
    )
    assert (result.size, result.sha256, result.image.data) == (len(data), None, None)
    assert names(tmp_path) == [f"forest-{DIGEST}.png"]


async def test_several_images_are_numbered_and_typed_each_by_its_bytes(tmp_path: Path) -> None:
    """Order, numbers and suffixes follow the images, and the digest is that of the file."""
    results = await kept(shelf(tmp_path, sha256=True), PNG, JPEG)
    assert [result.image.path for result in results if isinstance(result, Stored)] == [
        tmp_path / f"forest-{DIGEST}-1.png",
        tmp_path / f"forest-{DIGEST}-2.jpg",
    ]
    assert isinstance(results[1], Stored)
    assert results[1].sha256 == hashlib.sha256(JPEG).hexdigest()


async def test_the_first_image_appears_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees the first image of a call may rely on the others."""
    seen: list[str] = []
    place = disk.place

    def watched(part: Path, targets: Any, *, replace: bool) -> Path:
        seen.append(Path(place(part, targets, replace=replace)).name)
        return tmp_path / seen[-1]

    monkeypatch.setattr(disk, "place", watched)
    await kept(shelf(tmp_path), PNG, PNG, PNG)
    assert seen == [f"forest-{DIGEST}-{number}.png" for number in (3, 2, 1)]


async def test_small_images_that_wait_are_written_then_synced_then_named_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of all comes before the next, and their folder is synced once for all."""
    seen: list[str] = []

    def watched(step: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(disk, step)

        def call(*args: Any, **options: Any) -> Any:
            seen.append(step)
            return real(*args, **options)

        return call

    tmp_path.joinpath("shots").mkdir()
    for step in ("write_all", "sync", "place", "sync_folder"):
        monkeypatch.setattr(disk, step, watched(step))
    monkeypatch.setattr(disk, "_sync_names", lambda _: None)
    await asyncio.gather(*(kept(shelf(tmp_path / "shots"), PNG) for _ in range(3)))
    steps = ("write_all", "sync", "place", "sync_folder")
    assert seen == [*(step for step in steps[:3] for _ in range(3)), "sync_folder"]


async def test_missing_folders_are_made_and_synced_with_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder is as durable as the file in it; an old one costs one sync."""
    synced: list[str | Path] = []
    monkeypatch.setattr(disk, "_sync_names", synced.append)
    folder = tmp_path / "a" / "b"
    (result,) = await kept(shelf(folder), PNG)
    assert isinstance(result, Stored)
    assert synced == [str(folder), tmp_path / "a", tmp_path]
    synced.clear()
    await kept(shelf(folder), PNG)
    assert synced == [str(folder)]


async def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    """Others may read a finished image as they may read any file of the user."""
    old = os.umask(0o027)
    try:
        (result,) = await kept(shelf(tmp_path), PNG)
    finally:
        os.umask(old)
    assert isinstance(result, Stored)
    assert result.image.path is not None
    assert stat.S_IMODE(result.image.path.stat().st_mode) == 0o640


async def test_nothing_is_ever_overwritten_unasked(tmp_path: Path) -> None:
    """A taken name leads to the next number, also where a link or a folder took it."""
    first = tmp_path / f"forest-{DIGEST}.png"
    first.write_bytes(b"mine")
    (tmp_path / f"forest-{DIGEST}-2.png").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"forest-{DIGEST}-3.png").mkdir()
    (result,) = await kept(shelf(tmp_path), PNG)
    assert isinstance(result, Stored)
    assert result.image.path == tmp_path / f"forest-{DIGEST}-4.png"
    assert first.read_bytes() == b"mine"
    assert not (tmp_path / "elsewhere").exists()


async def test_numbered_images_move_on_to_free_numbers(tmp_path: Path) -> None:
    """The second run of the same call keeps the names' shape."""
    await kept(shelf(tmp_path), PNG, PNG)
    results = await kept(shelf(tmp_path), PNG, PNG)
    assert all(isinstance(result, Stored) for result in results)
    assert names(tmp_path) == [f"forest-{DIGEST}-{number}.png" for number in (1, 2, 3, 4)]


async def test_replacing_takes_the_name_and_never_follows_a_link(tmp_path: Path) -> None:
    """With replace the same name is written again; a link there is replaced, not its target."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    target = tmp_path / f"forest-{DIGEST}.png"
    target.symlink_to(outside)
    (result,) = await kept(shelf(tmp_path, replace=True), PNG)
    assert isinstance(result, Stored)
    assert not target.is_symlink()
    assert target.read_bytes() == PNG
    assert outside.read_bytes() == b"mine"
    assert sorted(names(tmp_path)) == [target.name, "outside"]


async def test_a_disk_without_links_still_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hard links are unknown, the name is taken by an exclusive create instead."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM, times=9))
    (tmp_path / f"forest-{DIGEST}.png").write_bytes(b"mine")
    (result,) = await kept(shelf(tmp_path), PNG)
    assert isinstance(result, Stored)
    assert names(tmp_path) == [f"forest-{DIGEST}-2.png", f"forest-{DIGEST}.png"]
    assert (tmp_path / f"forest-{DIGEST}.png").read_bytes() == b"mine"
    assert (tmp_path / f"forest-{DIGEST}-2.png").read_bytes() == PNG


async def test_a_disk_without_links_that_fails_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name that was taken for the image is given back if the image cannot have it."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    (result,) = await kept(shelf(tmp_path), PNG)
    assert isinstance(result, StoreFailure)
    assert result.disk
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "problem", "cut"),
    [
        (b"", "it is empty", False),
        (b"<!DOCTYPE html><html>", "an HTML page came", False),
        (b"\n <html>", "an HTML page came", False),
        (BIG[:-1], "image/png is cut short", True),
        (b'{"error": 1}', "a JSON document came", False),
        (b"<?xml version='1.0'?><Error/>", "an XML document came", False),
        (b"no such file", "a text came", False),
        (PNG[:-1], "image/png is cut short", True),
        (JPEG[:-1], "image/jpeg is cut short", True),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("where", ["memory", "folder"])
async def test_a_links_errors_are_told_and_leave_nothing(
    data: bytes, problem: str, cut: bool, where: str, tmp_path: Path
) -> None:
    """What a link brings in the stead of an image is named for what it is; no file is left."""
    target = MemoryStore() if where == "memory" else shelf(tmp_path)
    (result,) = await target.keep([fed(target, data)], [None], linked=True)
    assert isinstance(result, StoreFailure)
    assert problem in result.problem
    assert (result.disk, result.cut) == (False, cut)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "ending", "kind"),
    [
        (b"<svg xmlns='x'/>", ".svg", "image/svg+xml"),
        (b"<svg>" + bytes(100_000), ".svg", "image/svg+xml"),
        (b"%PDF-1.4", ".pdf", "application/pdf"),
        (b"<html>", ".bin", UNKNOWN),
        (b'{"error": 1}', ".bin", UNKNOWN),
        (b"\0\1\2\3" * 10, ".bin", UNKNOWN),
        (png(2**31 - 1, 1), ".bin", UNKNOWN),
        (PNG[:-1], ".cut.png", "image/png"),
        (BIG[:-1], ".cut.png", "image/png"),
        (JPEG[:-1], ".cut.jpg", "image/jpeg"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("where", ["memory", "folder"])
async def test_whatever_is_paid_for_is_kept_as_it_came(
    data: bytes, ending: str, kind: str, where: str, tmp_path: Path
) -> None:
    """Bytes that are no whole raster image are kept too, and what is odd about them is noted."""
    target = MemoryStore() if where == "memory" else shelf(tmp_path)
    (result,) = await kept(target, data)
    assert isinstance(result, Stored)
    assert (result.image.media_type, result.cut) == (kind, ending.startswith(".cut"))
    assert result.note is not None
    assert "kept as" in result.note
    if where == "memory":
        assert result.image.data == data
    else:
        assert names(tmp_path) == [f"forest-{DIGEST}{ending}"]
        assert (tmp_path / names(tmp_path)[0]).read_bytes() == data


async def test_a_bad_image_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """Each image of a call is kept or lost for itself."""
    target = shelf(tmp_path)
    sinks = [fed(target, data) for data in (PNG, b"<html>", PNG)]
    results = await target.keep(sinks, [1, 2, 3], linked=True)
    assert [type(result) for result in results] == [Stored, StoreFailure, Stored]
    assert names(tmp_path) == [f"forest-{DIGEST}-1.png", f"forest-{DIGEST}-3.png"]


async def test_memory_keeps_the_bytes_as_they_came() -> None:
    """Without a folder an image is its bytes, with its size told by them."""
    (result,) = await kept(MemoryStore(), PNG)
    assert isinstance(result, Stored)
    assert result.image.data == PNG
    assert (result.image.width, result.image.height, result.size) == (3, 2, len(PNG))


async def test_memory_keeps_a_copy_of_a_view_and_drops_what_is_discarded() -> None:
    """A decoder may use its buffer again, and a discarded image is nobody's."""
    memory = MemoryStore()
    sink, unwanted = memory.open(), memory.open()
    buffer = bytearray(PNG)
    sink.write(memoryview(buffer))
    unwanted.write(PNG)
    buffer[:] = bytes(len(PNG))
    unwanted.discard()
    first, second = await memory.keep([sink, unwanted], [1, 2])
    assert isinstance(first, Stored)
    assert first.image.data == PNG
    assert isinstance(second, StoreFailure)


async def test_a_discarded_sink_leaves_no_file(tmp_path: Path) -> None:
    """Half an image, or one that nobody wants, is gone at once; later calls do no harm."""
    sink = shelf(tmp_path).open()
    assert names(tmp_path) == []
    sink.write(BIG)
    (part,) = names(tmp_path)
    assert part.startswith(f".{DIGEST}-")
    assert part.endswith(disk.PART)
    sink.discard()
    sink.discard()
    sink.write(PNG)
    sink.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("image", [PNG, BIG], ids=["small", "big"])
@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("write", errno.ENOSPC),
        ("write", errno.EIO),
        ("write", errno.EDQUOT),
        ("open", errno.EACCES),
        ("open", errno.EROFS),
        ("fsync", errno.EIO),
        ("fsync", errno.ENOSPC),
        ("link", errno.ENOSPC),
        ("link", errno.EDQUOT),
    ],
)
async def test_a_disk_that_refuses_is_named_and_nothing_torn_is_left(
    step: str, number: int, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure at any step is that image's loss, with the path and the reason, never a raise."""
    target = shelf(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, step, failing(number, calls=getattr(os, step)))
        results = await kept(target, image, image)
    lost = [result for result in results if isinstance(result, StoreFailure)]
    assert len(lost) == 1
    assert lost[0].disk
    assert str(tmp_path) in lost[0].problem
    assert errno.errorcode[number] in lost[0].problem
    assert lost[0].image is not None
    assert (lost[0].image.data, lost[0].image.media_type) == (image, "image/png")
    (left,) = names(tmp_path)
    assert (tmp_path / left).read_bytes() == image


@pytest.mark.parametrize("seed", range(150))
async def test_whatever_fails_the_bytes_are_somewhere(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many steps fail in one call: each image ends as a file, or in the caller's hands."""
    dice = random.Random(seed)
    often = dice.choice([0.05, 0.2, 0.5, 0.9])
    numbers = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.ESTALE]

    def unsure(real: Callable[..., Any], *, closes: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if dice.random() >= often:
                return real(*args, **options)
            if closes:
                real(*args, **options)
            raise MemoryError if dice.random() < 0.2 else OSError(dice.choice(numbers), "no")

        return call

    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    target = shelf(tmp_path / "shots", replace=dice.random() < 0.5, sha256=True)
    data = [png(3, 2, dice.randbytes(dice.choice([10, 100_000]))) for _ in range(3)]
    with monkeypatch.context() as patched:
        for step in dice.sample(["write", "fsync", "link", "replace", "mkdir", "close"], 3):
            patched.setattr(os, step, unsure(getattr(os, step), closes=step == "close"))
        patched.setattr(mmap, "mmap", unsure(mmap.mmap))
        results = await kept(target, *data)
    for came, result in zip(data, results, strict=True):
        assert isinstance(result, Stored) or result.disk
        image = result.image
        assert image is not None
        assert came == (image.path.read_bytes() if image.path else image.data)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("image", [PNG, BIG], ids=["small", "big"])
@pytest.mark.parametrize("times", [1, 3, 10_000])
async def test_an_image_waits_for_a_free_descriptor(
    image: bytes, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortage costs no image: it waits in memory, or its bytes are handed over in the end."""
    monkeypatch.setattr(disk, "PATIENCE", 0.1)
    monkeypatch.setattr(disk, "_PAUSE", 0.001)
    monkeypatch.setattr(disk, "_gave_up", float("-inf"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(errno.EMFILE, times=times, calls=os.open))
        results = await kept(shelf(tmp_path), image, image)
    assert [type(result) for result in results] == [StoreFailure if times == 10_000 else Stored] * 2
    for result in results:
        assert result.image is not None
        assert image == (result.image.data or (result.image.path or tmp_path).read_bytes())


async def test_a_loop_does_not_wait_for_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a thread may sleep: on the loop a shortage is told at once."""
    monkeypatch.setattr(disk, "_gave_up", float("-inf"))
    monkeypatch.setattr(disk.time, "sleep", lambda _: pytest.fail("the loop slept"))
    monkeypatch.setattr(os, "open", failing(errno.EMFILE, times=9))
    with disk.patient(), pytest.raises(OSError, match="Too many open files"):
        disk.reopen(tmp_path / "x")


async def test_whoever_waited_in_vain_spares_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortage that lasts is waited for once, not by each image in turn."""
    waits: list[float] = []
    monkeypatch.setattr(disk, "PATIENCE", 0.05)
    monkeypatch.setattr(disk, "_gave_up", float("-inf"))
    monkeypatch.setattr(os, "open", failing(errno.ENFILE, times=10_000))
    sleep = disk.time.sleep
    monkeypatch.setattr(disk.time, "sleep", lambda pause: (waits.append(pause), sleep(pause)))
    monkeypatch.setattr(disk, "_PAUSE", 0.05)
    await kept(shelf(tmp_path), *[PNG] * 5)
    assert 1 <= len(waits) <= 2


@pytest.mark.parametrize("replace", [False, True])
async def test_a_rename_that_fails_leaves_the_old_file(
    replace: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is untouched and the hidden file is gone if the last step fails."""
    target = tmp_path / f"forest-{DIGEST}.png"
    target.write_bytes(b"mine")
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    (result,) = await kept(shelf(tmp_path, replace=replace), PNG)
    assert isinstance(result, StoreFailure)
    assert result.disk
    assert names(tmp_path) == [target.name]
    assert target.read_bytes() == b"mine"


async def test_a_close_that_fails_counts_as_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network disks report a full quota only when the file is closed."""
    target = shelf(tmp_path)
    sink = target.open()
    sink.write(BIG)
    close = os.close

    def closing(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, "quota")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", closing)
        sink.close()
    small = target.open()
    small.write(PNG)
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", closing)
        (refused,) = await target.keep([small], [None])
    assert isinstance(refused, StoreFailure)
    assert refused.image is not None
    assert refused.image.data == PNG
    (result,) = await target.keep([sink], [None])
    assert isinstance(result, StoreFailure)
    assert "EDQUOT" in result.problem
    assert result.image is not None
    assert result.image.data == BIG
    assert names(tmp_path) == []


async def test_a_folder_that_cannot_be_synced_is_a_disk_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that a power cut may take is not reported as kept; the file itself stays."""
    monkeypatch.setattr(disk, "_sync_names", failing(errno.EIO))
    results = await kept(shelf(tmp_path), PNG, b"")
    assert [isinstance(result, StoreFailure) and result.disk for result in results] == [True, False]
    assert names(tmp_path) == [f"forest-{DIGEST}-1.png"]
    assert [result.image and result.image.path for result in results] == [
        tmp_path / f"forest-{DIGEST}-1.png",
        None,
    ]


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_knows_no_folder_sync_is_forgiven(
    number: int, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL says that there is nothing to sync; any other error counts."""
    monkeypatch.setattr(disk, "sync", failing(number))
    if raises:
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.sync_folder(tmp_path)
    else:
        disk.sync_folder(tmp_path)


async def test_a_short_write_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that takes a few bytes at a time gets them all in the end."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    (result,) = await kept(shelf(tmp_path), PNG)
    assert isinstance(result, Stored)
    assert result.image.path is not None
    assert result.image.path.read_bytes() == PNG


@pytest.mark.parametrize("kind", ["file", "dangling", "below a file"])
async def test_a_folder_that_is_none_is_a_disk_that_failed(kind: str, tmp_path: Path) -> None:
    """A file or a dead link where the folder should be costs no exception and no file."""
    folder = tmp_path / "shots"
    if kind == "dangling":
        folder.symlink_to(tmp_path / "nowhere")
    else:
        folder.write_bytes(b"mine")
    (result,) = await kept(shelf(folder / "x" if kind == "below a file" else folder), PNG)
    assert isinstance(result, StoreFailure)
    assert result.disk
    assert names(tmp_path) == ["shots"]


async def test_a_folder_that_vanishes_is_a_disk_that_failed(tmp_path: Path) -> None:
    """A folder taken away between the bytes and the rename is reported, not made up for."""
    folder = tmp_path / "shots"
    target = shelf(folder)
    sink = fed(target, BIG)
    folder.rename(tmp_path / "moved")
    (result,) = await target.keep([sink], [None])
    assert isinstance(result, StoreFailure)
    assert result.disk


async def test_a_link_put_in_the_place_of_a_hidden_file_is_not_followed(tmp_path: Path) -> None:
    """Whoever swaps the hidden file for a link gets neither the name nor the other file."""
    outside = tmp_path / "outside.png"
    outside.write_bytes(PNG)
    target = shelf(tmp_path / "shots")
    sink = fed(target, BIG)
    (part,) = names(tmp_path / "shots")
    (tmp_path / "shots" / part).unlink()
    (tmp_path / "shots" / part).symlink_to(outside)
    (result,) = await target.keep([sink], [None])
    assert isinstance(result, StoreFailure)
    assert result.disk
    assert names(tmp_path / "shots") == []
    assert outside.read_bytes() == PNG


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_thread_that_began_ends_its_work_when_the_caller_is_cancelled(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling during the rename leaves every image whole and visible."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()
    sync_folder = disk.sync_folder

    def held(part: Path) -> int:
        begun.set()
        assert go.wait(5)
        return os.open(part, os.O_RDWR)

    def last(folder: Path) -> None:
        sync_folder(folder)
        ended.set()

    monkeypatch.setattr(disk, "reopen", held)
    monkeypatch.setattr(disk, "sync_folder", last)
    with anyio.CancelScope() as scope:
        task = asyncio.create_task(kept(shelf(tmp_path), BIG, BIG))
        await anyio.to_thread.run_sync(begun.wait)
        if how == "task":
            task.cancel()
        else:
            scope.cancel()
        asyncio.get_running_loop().call_later(0.01, go.set)
        await asyncio.wait([task])
    assert await asyncio.to_thread(ended.wait, 5)
    await asyncio.wait([task])
    assert names(tmp_path) == [f"forest-{DIGEST}-1.png", f"forest-{DIGEST}-2.png"]


async def test_a_keep_that_never_began_leaves_no_hidden_file(tmp_path: Path) -> None:
    """A task cancelled before the thread has its work removes what it had written."""
    target = shelf(tmp_path)
    sink = fed(target, BIG)
    task = asyncio.create_task(target.keep([sink], [None]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


async def test_a_small_image_is_kept_although_its_caller_was_cancelled(tmp_path: Path) -> None:
    """What waits in memory for its turn is paid for, and reaches the disk."""
    target = shelf(tmp_path)
    sink = fed(target, PNG)
    task = asyncio.create_task(target.keep([sink], [None]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await kept(target, PNG)  # its visit follows the first
    assert names(tmp_path) == [f"forest-{DIGEST}-2.png", f"forest-{DIGEST}.png"]


async def test_a_cancelled_scope_still_lets_paid_images_be_kept(tmp_path: Path) -> None:
    """What arrived whole is kept even if the call around it was cancelled meanwhile."""
    target = shelf(tmp_path)
    sink = fed(target, PNG)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await target.keep([sink], [None])
    assert names(tmp_path) == [f"forest-{DIGEST}.png"]


def test_a_shelf_outlives_its_loop(tmp_path: Path) -> None:
    """The limit on threads is each loop's own."""
    for _ in range(2):
        asyncio.run(kept(shelf(tmp_path), PNG))
    assert len(names(tmp_path)) == 2


async def test_many_keepers_at_once_do_not_meet(tmp_path: Path) -> None:
    """Equal names from many tasks get different files, all of them whole."""
    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(kept, shelf(tmp_path / "new"), PNG)
    found = names(tmp_path / "new")
    assert len(found) == 40
    assert all((tmp_path / "new" / name).read_bytes() == PNG for name in found)


@pytest.mark.parametrize(
    ("given", "data", "expected"),
    [
        ("forest", PNG, "forest.png"),
        ("forest", JPEG, "forest.jpg"),
        ("forest.png", PNG, "forest.png"),
        ("forest.PNG", PNG, "forest.PNG"),
        ("forest.jpeg", JPEG, "forest.jpeg"),
        ("a cat v1.5", PNG, "a cat v1.5.png"),
        (".hidden", PNG, ".hidden.png"),
        ("new/deep/forest", PNG, "new/deep/forest.png"),
        ("forest.bin", b"no image", "forest.bin"),
        ("forest", b"no image", "forest.bin"),
        ("forest", b"<svg/>", "forest.svg"),
    ],
)
async def test_a_saved_file_has_the_suffix_of_its_bytes(
    given: str, data: bytes, expected: str, tmp_path: Path
) -> None:
    """A name without a suffix gets one, and a fitting one stays as it was written."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = await write_file(data, tmp_path / given, overwrite=False)
    assert path == tmp_path / expected
    assert path.read_bytes() == data


async def test_a_suffix_that_disagrees_is_kept_with_a_warning(tmp_path: Path) -> None:
    """The user's name wins, and the user is told once that the bytes are another type."""
    with pytest.warns(UserWarning, match="holds image/jpeg") as caught:
        path = await write_file(JPEG, tmp_path / "forest.png", overwrite=False)
    assert path == tmp_path / "forest.png"
    assert len(caught) == 1


async def test_a_folder_gets_a_name_made_of_the_bytes(tmp_path: Path) -> None:
    """Saving into a folder names the file by its content."""
    digest = hashlib.sha256(PNG).hexdigest()[:12]
    path = await write_file(PNG, tmp_path, overwrite=False)
    assert path == tmp_path / f"image-{digest}.png"


async def test_saving_twice_numbers_and_overwriting_replaces(tmp_path: Path) -> None:
    """Without overwrite the old file stays; with it, it gives way whole."""
    first = await write_file(PNG, tmp_path / "forest.png", overwrite=False)
    second = await write_file(png(9, 9), tmp_path / "forest", overwrite=False)
    assert second == tmp_path / "forest-2.png"
    again = await write_file(png(5, 5), tmp_path / "forest.png", overwrite=True)
    assert again == first
    assert first.read_bytes() == png(5, 5)
    assert names(tmp_path) == ["forest-2.png", "forest.png"]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "link"])
async def test_a_file_that_cannot_be_saved_says_where_and_why(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SaveError names the path and the reason, counts as charged, and leaves nothing torn."""
    with monkeypatch.context() as patched:
        patched.setattr(os, step, failing(errno.ENOSPC))
        with pytest.raises(SaveError, match=r"forest.*ENOSPC") as caught:
            await write_file(PNG, tmp_path / "forest", overwrite=False)
    assert caught.value.charge is Charge.YES
    assert caught.value.__cause__ is None
    assert names(tmp_path) == []


async def test_a_path_that_no_system_takes_is_a_save_error(tmp_path: Path) -> None:
    """A null byte or an endless name is told like any other refusal, without raw controls."""
    for name in ("a\0b.png", "x" * 300, "\x1b[31m/" + "x" * 300):
        with pytest.raises(SaveError, match="cannot write") as caught:
            await write_file(PNG, tmp_path / name, overwrite=False)
        assert str(caught.value).isprintable()
    assert [name for name in names(tmp_path) if name.endswith(disk.PART)] == []


def test_a_list_of_taken_names_ends_in_an_error(tmp_path: Path) -> None:
    """If every name is taken, nothing is replaced."""
    part, taken = tmp_path / ".x.part", tmp_path / "taken.png"
    part.write_bytes(PNG)
    taken.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        disk.place(part, [taken], replace=False)
    assert taken.read_bytes() == b"mine"
