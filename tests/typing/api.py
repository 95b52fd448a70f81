"""What type checkers make of the public clients; checked by mypy and pyright, never run.

Each ignored error is a negative test: with ``warn_unused_ignores`` a checker that accepts the line
fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

from imagen_async import (
    AsyncImagen,
    Charge,
    Generation,
    GenerationRequest,
    Image,
    Imagen,
    ImagenError,
    Limits,
    Outcome,
    RetryPolicy,
    Stats,
    Timeouts,
)
from imagen_async.batch.plan import Plan
from imagen_async.batch.report import Report


def blocking(imagen: Imagen, prompts: list[str | GenerationRequest]) -> None:
    generation = imagen.generate("a fox", aspect_ratio="16:9", n=2, extra={"seed": 1}, timeout=9.5)
    assert_type(generation, Generation)
    assert_type(generation.images, tuple[Image, ...])
    assert_type(imagen.generate(GenerationRequest("a fox")), Generation)
    assert_type(imagen.generate_to("shots", "a fox"), Generation)
    assert_type(imagen.generate_to(Path("shots"), "a fox", model="imagen4"), Generation)
    assert_type(imagen.read(generation.images[0]), bytes)
    assert_type(imagen.save(generation.images[0], "fox", overwrite=True), Path)
    assert_type(imagen.stats(), Stats)
    assert_type(imagen.close(), None)

    with imagen as same:
        assert_type(same, Imagen)

    with imagen.generate_many(prompts, ordered=True) as outcomes:
        iterator: Iterator[Outcome] = outcomes
        for outcome in outcomes:
            assert_type(outcome, Outcome)
            assert_type(outcome.generation, Generation | None)
            assert_type(outcome.error, ImagenError | None)
        assert_type(next(iterator), Outcome)

    with imagen.batch(prompts, out="shots", on_unknown="resend", budget=2.5) as run:
        for outcome in run:
            assert_type(outcome, Outcome)
            assert_type(outcome.row, dict[str, Any])
        assert_type(run.report, Report)
        assert_type(run.folder, Path)
        assert_type(run.stop("enough"), None)
        assert_type(run.pause(), None)
        assert_type(run.paused, bool)
    assert_type(imagen.batch(prompts, out="shots").plan(), Plan)
    imagen.batch([{"id": "a1", "prompt": "a fox", "style": "ink", "seed": 7}], out="shots")


def blocking_refuses(imagen: Imagen, image: Image) -> None:
    imagen.generate()  # type: ignore[call-arg]
    imagen.generate(7)  # type: ignore[arg-type]
    imagen.generate("a fox", "imagen4")  # type: ignore[call-arg]
    imagen.generate("a fox", n="two")  # type: ignore[arg-type]
    imagen.generate("a fox", colour="red")  # type: ignore[arg-type]
    imagen.generate_to("a fox")  # type: ignore[call-arg]
    imagen.read("https://gateway.example/fox.png")  # type: ignore[arg-type]
    imagen.save(image)  # type: ignore[call-arg]
    imagen.generate_many([7])  # type: ignore[list-item]
    imagen.generate_many(["a fox"], True)  # type: ignore[call-arg]
    imagen.batch(["a fox"])  # type: ignore[call-arg]
    imagen.batch(["a fox"], out="shots", on_unknown="buy")  # type: ignore[arg-type]
    imagen.aclose()  # type: ignore[attr-defined]
    Imagen("https://gateway.example/v1")  # type: ignore[call-arg]
    Imagen(limits=8)  # type: ignore[arg-type]
    Imagen(key="k")  # type: ignore[call-arg]


async def awaited(imagen: AsyncImagen, prompts: AsyncIterator[str]) -> None:
    generation = await imagen.generate("a fox")
    assert_type(generation, Generation)
    assert_type(await imagen.generate_to("shots", "a fox"), Generation)
    assert_type(await imagen.read(generation.images[0]), bytes)
    assert_type(await imagen.save(generation.images[0], "fox"), Path)
    async with imagen as same:
        assert_type(same, AsyncImagen)
    async with imagen.generate_many(prompts) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Outcome)
    async with imagen.batch(prompts, out="shots") as run:
        async for outcome in run:
            assert_type(outcome, Outcome)
        assert_type(run.report, Report)
    assert_type(await imagen.batch(prompts, out="shots").plan(), Plan)


async def awaited_refuses(imagen: AsyncImagen) -> None:
    await imagen.generate(n=2)  # type: ignore[call-arg]
    await imagen.generate("a fox", timeout="9")  # type: ignore[arg-type]
    imagen.generate_many(7)  # type: ignore[arg-type]
    imagen.close()  # type: ignore[attr-defined]


def configured() -> None:
    limits = Limits(concurrency=32, requests_per_minute=600)
    retry, timeouts = RetryPolicy(max_charges=2), Timeouts(total=90)
    assert_type(Imagen(limits=limits, retry=retry, timeouts=timeouts), Imagen)
    assert_type(AsyncImagen(headers={"X-Team": "art"}, on_event=print), AsyncImagen)


def failed(error: ImagenError) -> None:
    assert_type(error.charge, Charge)
    assert_type(error.attempts, int)
    assert_type(error.images, tuple[Image, ...])
