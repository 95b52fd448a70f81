"""A gateway for blocking clients, and scripts in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagen_async import Imagen, Limits
from imagen_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
WAIT = 30.0
"""Seconds that a process may take on a machine that has much else to do."""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A gateway that answers at once; IMAGEN_BASE_URL names it."""
    with Emulator(draw="tiny") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        yield emulator


@pytest.fixture
def imagen(gateway: Emulator) -> Iterator[Imagen]:
    """A blocking client of that gateway, with room for 4 calls."""
    with Imagen(base_url=gateway.base_url, limits=Limits(concurrency=4)) as client:
        yield client


@pytest.fixture
def spawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a script in a process of its own; it is killed if it outlives the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *options: str) -> subprocess.Popen[str]:
        path = tmp_path / f"script{len(started)}.py"
        path.write_text(textwrap.dedent(script))
        words = [sys.executable, *options, str(path)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()
