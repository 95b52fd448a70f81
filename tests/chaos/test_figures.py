"""The figures of ``benchmarks/chaos.py`` at a tenth of their size; and none of them by luck."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import chaos
from imagen_async import RetryPolicy
from imagen_async.policy.retry import decide
from tests import virtual

ROOT = Path(__file__).parents[2]


def test_the_figures() -> None:
    """No prompt is bought twice, nothing is left behind, and no resource warns."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "benchmarks.chaos"]
    done = subprocess.run(
        [*command, "--calls", "600"], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSED" not in done.stdout
    assert done.stderr == ""


def test_a_client_without_the_cap_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the charge cap out of order the same run counts prompts bought twice."""
    monkeypatch.setattr(
        "imagen_async.session.call_runner.decide",
        lambda policy, *args, **kwargs: decide(RetryPolicy(max_charges=99), *args, **kwargs),
    )
    found = virtual.run(chaos.mix(150, 20))
    assert found["charged more than once"] > 0


def test_the_naive_client_buys_twice() -> None:
    """The twin of the run pays again for a good part of its prompts."""
    books = virtual.run(chaos.twin(150, 20))
    assert books.bought_twice > 20
