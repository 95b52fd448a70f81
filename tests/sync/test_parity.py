"""Imagen is AsyncImagen's twin, method for method."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import imagen_async.sync
from imagen_async import AsyncImagen, Imagen
from imagen_async.batch.run import Run
from imagen_async.blocking.run import BlockingRun

TWINS = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
ACROSS = {"take", "wait", "pop", "release", "unread"}
"""How outcomes cross the threads, or are taken in slices by coroutines; no loop needs these."""


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def parameters(method: object) -> list[inspect.Parameter]:
    assert callable(method)
    return list(inspect.signature(method, follow_wrapped=True).parameters.values())


def test_every_public_name_has_its_twin() -> None:
    """Both clients have the same public methods; only aclose is called close."""
    assert {TWINS.get(name, name) for name in public(AsyncImagen)} == public(Imagen)


def test_a_run_has_its_twin() -> None:
    """A blocking run has what a run has, but for its ways across threads."""
    assert public(Run) - ACROSS == public(BlockingRun)


@pytest.mark.parametrize("name", sorted({*public(AsyncImagen), "__init__", *TWINS} - {"aclose"}))
def test_signatures_and_docstrings_are_the_same(name: str) -> None:
    """Each pair of methods takes the same parameters, defaults and types, and says the same."""
    theirs, ours = getattr(AsyncImagen, name), getattr(Imagen, TWINS.get(name, name))

    assert parameters(ours) == parameters(theirs)
    assert ours.__doc__ == theirs.__doc__


def test_close_says_what_aclose_says() -> None:
    """Closing has the same words on both sides."""
    assert Imagen.close.__doc__ == AsyncImagen.aclose.__doc__


def test_the_facade_stays_thin() -> None:
    """All of Imagen fits in 200 lines: nothing of the async side is written twice."""
    assert len(Path(imagen_async.sync.__file__).read_text().splitlines()) <= 200


def test_the_name_of_the_gateway_shows_and_the_key_does_not() -> None:
    """A client's repr names its class and its address."""
    client = Imagen(base_url="http://127.0.0.1:9/v1", api_key="sk-canary")

    assert repr(client) == "Imagen(base_url='http://127.0.0.1:9/v1')"
