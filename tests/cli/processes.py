"""What a run of the command line leaves, held to what every run must hold to."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import attrs

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
