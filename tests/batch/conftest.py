"""A gateway and a client for each test of a batch that needs no more of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from imagen_async.emulator import Emulator
from tests.batch.runs import core_on


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway that answers at once with small images."""
    async with Emulator(draw="tiny") as started:
        yield started


@pytest.fixture
async def core(emulator: Emulator) -> AsyncIterator[Any]:
    """A client's core on the emulator, closed after the test."""
    made = core_on(emulator)
    yield made
    await made.aclose()
