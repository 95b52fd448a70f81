"""Runs of the command line, in this process or in its own, that hold to what every run must."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagen_async.cli import main
from imagen_async.emulator import Emulator
from tests.cli.processes import KEY, Child, Ended


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test its own folder and no configuration but the canary of a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGEN_BASE_URL", raising=False)
    monkeypatch.delenv("IMAGEN_DEBUG", raising=False)
    monkeypatch.setenv("IMAGEN_API_KEY", KEY)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    """Run the command line in a process of its own; it is killed if it outlives the test."""
    children: list[Child] = []

    def start(*arguments: str | Path, **options: object) -> Child:
        words = [sys.executable, "-m", "imagen_async", *map(str, arguments)]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        child = Child(subprocess.Popen(words, **settings))  # type: ignore[call-overload]
        children.append(child)
        return child

    yield start
    for child in children:
        with child.process as process:
            process.kill()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A gateway in a thread of its own, which IMAGEN_BASE_URL names."""
    with Emulator(draw="tiny") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        yield emulator
