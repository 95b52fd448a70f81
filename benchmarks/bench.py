"""What the benchmarks share: environments, one server process, children, and their figures."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
CHECKOUT = HERE.parent
PATIENCE = 300
"""Seconds that one child may take."""

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "plain": ("aiohttp", "orjson", "pybase64", "uvloop"),
    "ours": (str(CHECKOUT), "uvloop"),
    "openai": ("openai[aiohttp]",),
    "litellm": ("litellm==1.80.5",),  # some later releases were withdrawn as compromised
    "chart": ("matplotlib",),
}
SHOWN = ("aiohttp", "imagen-async", "openai", "httpx2", "litellm", "orjson", "pybase64", "uvloop")
"""Packages whose versions the results name."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Args:
        name: As tables show it.
        environment: Of ``ENVIRONMENTS``.
        script: Of ``peers``.
        options: For the script.
    """

    name: str
    environment: str
    script: str
    options: tuple[str, ...] = ()


class BrokenChildError(Exception):
    """A child that did not end with its figures."""


class Environments:
    """Throw-away environments, each made once.

    Args:
        root: Where they are; a folder that exists is used again, but ours is installed anew.
        current: Use this interpreter for everything instead.
    """

    def __init__(self, root: Path, *, current: bool = False) -> None:
        self._root = root
        self._current = current
        self.missing: dict[str, str] = {}
        self._pythons: dict[str, str] = {}

    def prepare(self, names: Iterable[str]) -> None:
        """Make environments; what cannot be made is in ``missing`` with the reason."""
        for name in names:
            if self._current:
                self._pythons[name] = sys.executable
                continue
            print(f"environment {name}", file=sys.stderr, flush=True)
            try:
                self._pythons[name] = self._made(name)
            except subprocess.CalledProcessError as error:
                lines = (error.stderr or "").strip().splitlines() or ["no reason given"]
                self.missing[name] = lines[-1][:200]
                print(f"  cannot be made: {self.missing[name]}", file=sys.stderr)

    def _made(self, name: str) -> str:
        folder = self._root / name
        python = str(folder / "bin" / "python")
        if not Path(python).exists():
            _checked([sys.executable, "-m", "venv", str(folder)])
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _checked([*pip, *ENVIRONMENTS[name]])
        if name == "ours":
            _checked([*pip, "--force-reinstall", "--no-deps", str(CHECKOUT)])
        return python

    def python(self, name: str) -> str:
        """Return an environment's interpreter."""
        return self._pythons[name]

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that matter; the same ones everywhere are one."""
        code = (
            "import json, sys; from importlib.metadata import distributions as d;"
            "print(json.dumps({x.name.lower().replace('_','-'): x.version for x in d()}))"
        )
        found: dict[str, set[str]] = {}
        for python in set(self._pythons.values()):
            done = _checked([python, "-c", code])
            for package, version in json.loads(done.stdout).items():
                found.setdefault(package, set()).add(version)
        return {name: " and ".join(sorted(found[name])) for name in SHOWN if name in found}


def _checked(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=PEERS)


class Bench:
    """One server process, and children that work against it one at a time.

    Args:
        environments: With those of every side.
        port: Of the server.
        out: Where files go.
    """

    def __init__(self, environments: Environments, port: int, out: Path) -> None:
        self._environments = environments
        self._port = port
        self._out = out

    def has(self, side: Side) -> bool:
        """Whether a side can run."""
        return side.environment not in self._environments.missing

    def base_url(self, path: str) -> str:
        """Return the base URL of one of the server's paths, such as ``/b64``."""
        return f"http://127.0.0.1:{self._port}{path}/v1"

    def run(self, side: Side, work: str, path: str, *options: object) -> Figures:
        """Let a side do a job; return its figures, ``seconds`` of the whole process among them.

        Raises:
            BrokenChildError: If it fails or takes too long; the text is its last line.
        """
        python = self._environments.python(side.environment)
        out = self._out / "files"
        shutil.rmtree(out, ignore_errors=True)
        command = [python, side.script, work, self.base_url(path), "--out", str(out)]
        try:
            done = subprocess.run(
                [*command, *side.options, *(str(option) for option in options)],
                capture_output=True,
                text=True,
                cwd=PEERS,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BrokenChildError(f"not done after {PATIENCE} s") from None
        finally:
            shutil.rmtree(out, ignore_errors=True)
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise BrokenChildError(f"{side.name}, {work}: {said[-1][:300]}")
        figures: Figures = json.loads(lines[-1])
        return figures

    def python(self, side: Side, code: str) -> str:
        """Run a line of Python in a side's environment and return what it prints."""
        return _checked([self._environments.python(side.environment), "-c", code]).stdout

    def ledger(self) -> dict[str, dict[str, int]]:
        """Return the server's calls and charges by base path."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ledger") as answer:
            accounts: dict[str, dict[str, int]] = json.load(answer)
            return accounts


@contextlib.contextmanager
def serving(environments: Environments, out: Path) -> Iterator[Bench]:
    """Run the server in a process of its own, the same for every side."""
    server = subprocess.Popen(
        [environments.python("plain"), str(HERE / "server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield Bench(environments, int(server.stdout.readline()), out)
    finally:
        server.stdin.close()
        server.wait(30)


def machine() -> dict[str, object]:
    """Return what the figures depend on, and nothing that names a machine."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def median(values: Iterable[float], digits: int = 4) -> float:
    """Return the median to so many significant digits."""
    return float(f"{statistics.median(values):.{digits}g}")


def ratios(rounds: Sequence[Mapping[str, Any]], key: str, base: str, name: str) -> list[float]:
    """Return a side's figure over the base's, round by round: neighbours share their weather."""
    return [each[name][key] / each[base][key] for each in rounds if name in each and base in each]
