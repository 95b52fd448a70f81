"""Fixtures for the tests of programs that use this package.

Load them in ``conftest.py`` with ``pytest_plugins = ["imagen_async.testing"]``. Nothing runs by
itself, and nothing heavy is imported before a test asks for a fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async import AsyncImagen
    from imagen_async.emulator import Emulator

KEY = "sk-emulated"
"""The API key of ``imagen_client``."""


@pytest.fixture
def imagen_emulator() -> Iterator[Emulator]:
    """Run an image gateway on loopback for one test.

    It lives in a thread of its own, so that any test can use it: plain functions, and coroutines
    under pytest-asyncio or AnyIO's plugin.

    Yields:
        The emulator: ``base_url``, ``ledger``, ``fail_next``, ``assert_charged_once``.
    """
    from imagen_async.emulator import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def imagen_client(imagen_emulator: Emulator) -> AsyncImagen:
    """Make a client of the test's emulator.

    Its connections belong to the loop of the test that uses it and close with that loop, or
    with ``async with imagen_client``.

    Returns:
        An ``AsyncImagen`` with one of the emulator's models set.
    """
    from imagen_async import AsyncImagen

    return AsyncImagen(base_url=imagen_emulator.base_url, api_key=KEY, model="imagen4")


def patch_aioresponses() -> None:
    """Let aioresponses work with aiohttp 3.14 and later; call it once, in ``conftest.py``.

    aioresponses 0.7.9 makes responses without the ``stream_writer`` that aiohttp now asks for
    (pnuckowski/aioresponses, issue 288), so that each mocked request fails with a TypeError.
    Prefer ``imagen_emulator`` for errors: a mocked exception does not say whether the request
    was sent.

    Raises:
        ImportError: If aioresponses is not installed.
    """
    from unittest.mock import Mock

    import aiohttp
    import aioresponses.core

    class Response(aiohttp.ClientResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("stream_writer", Mock(output_size=0))
            super().__init__(*args, **kwargs)

    setattr(aioresponses.core, "ClientResponse", Response)  # noqa: B010 - it is not exported
