"""Every ratio, form and number of images, alone and in a batch: what lands in the files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import attrs
import pytest
from PIL import Image as Picture

from imagen_async import AspectRatio, AsyncImagen, Generation, GenerationRequest, Image, ImagenError
from imagen_async.emulator import Emulator
from tests.chaos.server import PNG
from tests.scripted import Answer, answering, scripted

FORMS = ("url", "b64_json")
FAULTS = {
    "wrong_format": FORMS,
    "url_datauri": FORMS[:1],
    "url_relative": FORMS[:1],
    "b64_prefix": FORMS[1:],
    "b64_newlines": FORMS[1:],
    "b64_unpadded": FORMS[1:],
    "b64_urlsafe": FORMS[1:],
    "two_json": FORMS,
    "bom": FORMS[:1],
    "sse": FORMS,
    "gzip": FORMS,
    "ct_text_plain": FORMS[:1],
    "ws_keepalive": FORMS[1:],
}
"""Odd answers that are whole, and the forms that each is played in."""


async def made(
    imagen: AsyncImagen, request: GenerationRequest, how: str, folder: Path
) -> Generation:
    """Generate one request to files, in either way."""
    if how == "generate_to":
        return await imagen.generate_to(folder, request)
    async with imagen.batch([request], out=folder, gallery=False) as run:
        (outcome,) = [outcome async for outcome in run]
    assert outcome.generation is not None, outcome.error
    return outcome.generation


def check(image: Image, size: tuple[int, int]) -> None:
    assert image.path is not None
    assert (image.width, image.height, image.media_type) == (*size, "image/png")
    with Picture.open(image.path) as picture:
        picture.load()
        assert picture.size == size


@pytest.mark.parametrize("how", ["generate_to", "batch"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ratio", AspectRatio)
async def test_every_ratio_comes_in_its_pixels(
    ratio: AspectRatio, form: str, how: str, tmp_path: Path
) -> None:
    """Two images of each of the page's ratios have exactly its size, in either form."""
    request = GenerationRequest("A wood", aspect_ratio=ratio, response_format=form, n=2)
    async with (
        Emulator(draw="plain") as emulator,
        AsyncImagen(base_url=emulator.base_url) as imagen,
    ):
        generation = await made(imagen, request, how, tmp_path)
        emulator.assert_charged_once()
    assert generation.problems == ()
    assert len({image.path for image in generation.images}) == 2
    for image in generation.images:
        check(image, ratio.size)


@pytest.mark.parametrize("how", ["generate_to", "batch"])
@pytest.mark.parametrize(("fault", "n"), [(None, 1), (None, 10), *((fault, 3) for fault in FAULTS)])
async def test_odd_answers_come_whole(fault: str | None, n: int, how: str, tmp_path: Path) -> None:
    """However a gateway words its answer, every image that was paid for is a file."""
    for form in FAULTS[fault] if fault else FORMS:
        folder = tmp_path / form
        request = GenerationRequest("A wood", response_format=form, n=n)
        async with (
            Emulator(draw="tiny") as emulator,
            AsyncImagen(base_url=emulator.base_url) as imagen,
        ):
            if fault is not None:
                emulator.fail_next(fault)
            generation = await made(imagen, request, how, folder)
            emulator.assert_charged_once()
        assert len(generation.images) == n
        assert len({image.path for image in generation.images}) == n
        assert list(folder.rglob("*.part")) == []
        for image in generation.images:
            check(image, (16, 16))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("fault", "came"), [("partial:2", 2), ("more", 4), ("item_null", 2)])
async def test_what_came_counts_and_not_what_was_asked(
    fault: str, came: int, form: str, tmp_path: Path
) -> None:
    """Of three images asked for, those that came are files, fewer or more."""
    request = GenerationRequest("A wood", response_format=form, n=3)
    async with (
        Emulator(draw="tiny") as emulator,
        AsyncImagen(base_url=emulator.base_url) as imagen,
    ):
        emulator.fail_next(fault)
        generation = await imagen.generate_to(tmp_path, request)
    assert len(generation.images) == came
    assert len(list(tmp_path.iterdir())) == came


IMAGE = {"b64_json": base64.b64encode(PNG).decode()}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"data": [IMAGE]}).encode(),
        json.dumps({"error": {"message": "late"}, "images": [IMAGE]}).encode(),
        json.dumps({"data": [IMAGE]}).encode()[:-2],
        PNG,
    ],
)
@pytest.mark.parametrize("status", [302, 400, 429, 500, 504])
async def test_an_image_inside_an_error_is_kept(status: int, body: bytes) -> None:
    """Whatever the status says, an image that came is paid for: it is delivered, with a note."""
    async with scripted(answering(Answer(status, body))) as (gateway, imagen):
        generation = await imagen.generate("A wood")
    assert [image.data for image in generation.images] == [PNG]
    assert generation.problems[-1] == f"the gateway answered {status}"
    assert len(gateway.posts) == 1


async def test_an_error_that_quotes_an_image_brings_none() -> None:
    """The image that the order itself held is no answer to it."""
    body = json.dumps({"error": {"message": "bad"}, "input": {"image": IMAGE}}).encode()
    for status in (200, 400):
        async with scripted(answering(Answer(status, body))) as (_, imagen):
            with pytest.raises(ImagenError) as caught:
                await imagen.generate("A wood")
        assert caught.value.images == ()


@pytest.mark.parametrize("size", [300, 2_000_000])
async def test_an_image_in_an_unusual_place_is_kept(size: int, tmp_path: Path) -> None:
    """A large image outside the list of items is a file, as it would be inside."""
    data = PNG + bytes(size)
    text = base64.b64encode(data).decode()
    for document in ({"images": [text]}, {"output": {"image_base64": text}}):
        async with scripted(answering(Answer(200, json.dumps(document).encode()))) as (_, imagen):
            generation = await imagen.generate_to(tmp_path, "A wood")
        (image,) = generation.images
        assert image.path is not None
        assert image.path.read_bytes() == data


async def test_another_size_than_asked_is_told(tmp_path: Path) -> None:
    """A gateway that draws other pixels is paid all the same, and the reader is told."""
    request = GenerationRequest("A wood", aspect_ratio="16:9")
    async with (
        Emulator(draw="plain") as emulator,
        AsyncImagen(base_url=emulator.base_url) as imagen,
    ):
        emulator.fail_next("wrong_size")
        generation = await imagen.generate_to(tmp_path, request)
    (problem,) = generation.problems
    assert problem.startswith("asked for 16:9 (1408 x 768 pixels), got ")
    assert attrs.asdict(generation.images[0])["width"] != 1408
