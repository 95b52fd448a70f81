"""What the bytes of an image tell, with Pillow's own images as the samples."""

from __future__ import annotations

import functools
import io
import mmap
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from imagen_async.wire.image_header import Media, inspect, suffix

SIZE = (37, 29)
MODES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("RGB", "PNG", {}),
    "png-palette": ("P", "PNG", {}),
    "png-grey": ("L", "PNG", {"compress_level": 0}),
    "png-bits": ("1", "PNG", {}),
    "png-alpha": ("RGBA", "PNG", {}),
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg-grey": ("L", "JPEG", {"quality": 100}),
    "jpeg-progressive": ("RGB", "JPEG", {"progressive": True}),
    "jpeg-restarts": ("RGB", "JPEG", {"restart_marker_rows": 1}),
    "jpeg-thumbnail": ("RGB", "JPEG", {"exif": b"Exif\0\0" + b"\xff\xd8\xff\xda\xff\xd9" * 9}),
    "webp": ("RGB", "WEBP", {}),
    "webp-lossless": ("RGB", "WEBP", {"lossless": True}),
    "webp-alpha": ("RGBA", "WEBP", {}),
    "webp-exif": ("RGB", "WEBP", {"exif": b"Exif\0\0abc"}),
    "gif": ("P", "GIF", {}),
    "avif": ("RGB", "AVIF", {}),
    "avif-alpha": ("RGBA", "AVIF", {}),
}
NAMES = [name for name in MODES if not name.startswith("avif") or features.check("avif")]
EXACT = [name for name in NAMES if not name.startswith(("gif", "avif"))]


@functools.cache
def sample(name: str) -> bytes:
    mode, kind, options = MODES[name]
    image = Image.effect_noise(SIZE, 90).convert("RGB").rotate(1).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(SIZE))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_image_is_told(name: str, tmp_path: Path) -> None:
    """Type and size are those of the image, from memory in any shape and from a mapped file."""
    data = sample(name)
    kind = name.partition("-")[0]
    expected = Media(f"image/{kind}", *SIZE, complete=True)
    path = tmp_path / "image"
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert inspect(mapped) == expected
    assert inspect(data) == inspect(bytearray(data)) == inspect(memoryview(data)) == expected


@pytest.mark.parametrize("name", EXACT)
def test_every_truncation_is_found(name: str) -> None:
    """Cut at any byte, an image is incomplete."""
    data = sample(name)
    assert [end for end in range(len(data)) if inspect(data[:end]).complete] == []


@pytest.mark.parametrize("name", [name for name in EXACT if not name.startswith("webp")])
def test_trailing_bytes_do_no_harm(name: str) -> None:
    """Bytes after the end of an image leave it whole."""
    assert inspect(sample(name) + b"\0junk").complete


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_an_avif_without_its_data_is_incomplete() -> None:
    """An AVIF cut between its boxes, or inside one, is incomplete."""
    data = sample("avif")
    start = data.index(b"mdat") - 4
    assert not any(inspect(data[:end]).complete for end in range(start - 50, len(data)))


@pytest.mark.parametrize(
    ("width", "height", "problem"),
    [
        (16_384, 5461, None),
        (16_384, 5462, "claims 16384 x 5462 pixels"),
        (16_385, 1, "claims 16385 x 1 pixels"),
        (1, 16_385, "claims 1 x 16385 pixels"),
        (0, 1, "claims 0 x 1 pixels"),
        (1, 0, "claims 1 x 0 pixels"),
        (2**31 - 1, 2**31 - 1, "claims 2147483647 x 2147483647 pixels"),
    ],
)
def test_absurd_sizes_are_named(width: int, height: int, problem: str | None) -> None:
    """A size that no generated image has is a problem, however whole the bytes."""
    data = bytearray(sample("png"))
    data[16:24] = struct.pack(">II", width, height)
    assert inspect(data) == Media("image/png", width, height, complete=True, problem=problem)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"<svgs/>",
        b"<!doctype html><svg>",
        b"<!-- <svg> --><html>",
        b'{"a":1}',
        b"RIFF\0\0\0\0WAVE",
        b"BM",
        b"GIF88a",
    ],
)
def test_anything_else_is_no_image(data: bytes) -> None:
    """Bytes of another kind have no type, no size, and are never complete."""
    assert inspect(data) == Media()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<svg/>", ".svg"),
        (b"\xef\xbb\xbf \n<svg:svg>", ".svg"),
        (b"<?xml version='1.0'?><!-- <a> --><!DOCTYPE svg [<!ENTITY a 'b'>]>\n<svg x='y'>", ".svg"),
        (b"%PDF-1.7", ".pdf"),
        (b"%!PS-Adobe", ".ps"),
        (b"\0\0\0\x18ftypheic", ".heic"),
        (b"\0\0\0\x18ftypisom", ".mp4"),
        (b"II*\0", ".tiff"),
        (b"BM1234\0\0\0\0", ".bmp"),
        (b"\xff\x0a", ".jxl"),
        (b"PK\3\4", ".zip"),
    ],
)
def test_other_kinds_have_their_type_and_nothing_more(data: bytes, expected: str) -> None:
    """What is no raster image is named by its first bytes, and never said to be whole."""
    found = inspect(data)
    assert suffix(found.media_type) == expected
    assert found == Media(found.media_type)
    assert not found.raster


@pytest.mark.parametrize(
    "piece", [b"<!--", b"<!-- --> ", b" ", b"<?x?>", b"<!DOCTYPE svg [", b"a:"]
)
def test_a_hostile_head_ends(piece: bytes) -> None:
    """No run of what may stand before an SVG is looked at in more than one way."""
    assert inspect(piece * 100_000) == Media()


HEADS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\x20\0\0\0WEBP",
    b"GIF89a",
    b"\0\0\0\x1cftypavif",
]
BOX = struct.pack(">I4s", 8, b"free")


@pytest.mark.parametrize(
    "data",
    [
        HEADS[0] + bytes(25) + (bytes(4) + b"junk" + bytes(4)) * 120_000,
        HEADS[0] + struct.pack(">I4s", 13, b"IDAT") + bytes(50),
        b"\xff\xd8" + b"\xff\xda\0\x02" * 120_000,
        b"\xff\xd8" + b"\xff" * 200_000,
        b"\xff\xd8\xff\x01\xff\xd9",
        b"\xff\xd8\xff\xe0\0\x02junk",
        b"\xff\xd8\xff\xda\0\x02" + bytes(50),
        HEADS[2] + b"JUNK" + bytes(50),
        HEADS[3],
        HEADS[4] + bytes(16) + BOX * 120_000,
        HEADS[4] + bytes(16) + struct.pack(">I4sQ", 1, b"meta", 16) + struct.pack(">I", 0),
        HEADS[4] + bytes(16) + struct.pack(">I4sQ", 1, b"free", 2**63),
    ],
)
def test_hollow_images_are_incomplete(data: bytes) -> None:
    """A head with nothing sensible behind it is followed only so far."""
    assert inspect(data).media_type is not None
    assert not inspect(data).complete


def test_a_segment_that_stands_alone_is_passed() -> None:
    """A JPEG may hold fill bytes and markers without a length before its segments."""
    data = sample("jpeg")
    assert inspect(data[:2] + b"\xff\xff\xff\x01" + data[2:]) == inspect(data)


@settings(deadline=None)
@given(st.sampled_from(["", *NAMES]), st.binary(max_size=60), st.integers(0, 2000))
def test_no_bytes_raise(name: str, junk: bytes, place: int) -> None:
    """Whatever is written over an image, the answer is a Media."""
    data = bytearray(sample(name) if name else b"")
    data[place : place + len(junk)] = junk
    assert isinstance(inspect(data), Media)
    for head in HEADS:
        assert isinstance(inspect(head + junk), Media)


def test_each_type_has_its_suffix() -> None:
    """Files are named by what they hold."""
    types = ("png", "jpeg", "webp", "gif", "avif")
    assert [suffix(f"image/{kind}") for kind in types] == [".png", ".jpg", ".webp", ".gif", ".avif"]
    assert suffix(None) == suffix("text/html") == ".bin"
