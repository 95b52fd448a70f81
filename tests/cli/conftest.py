"""Runs of the command line, in this process or in its own, that hold to what every run must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from imagen_async.cli import main
from imagen_async.emulator import Emulator

KEY = "sk-canary-3f9a1c"
WAIT = 20.0


@attrs.frozen
class Ended:
    """What a run left."""

    code: int
    out: str
    err: str

    def __attrs_post_init__(self) -> None:
        both = self.out + self.err
        assert KEY not in both
        assert "Traceback" not in both
        assert all(character.isprintable() or character == "\n" for character in both), both

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Child:
    """A run in its own process, which signals can be sent to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Ended:
        out, err = self.process.communicate(timeout=WAIT)
        return Ended(self.process.returncode, out, err)


def until(told: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT
    while not told():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


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
