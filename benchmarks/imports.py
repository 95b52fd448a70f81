"""What importing costs: AsyncImagen beside aiohttp, in turn, and the command line's help.

Run as ``python benchmarks/imports.py``; the median ratio of neighbouring runs is printed, so that
a loaded machine slows both sides. All of it is compiled before, as an installer does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

AIOHTTP = "import aiohttp"
OURS = "from imagen_async import AsyncImagen"
BLOCKING = "from imagen_async import Imagen"
HELP = """
import sys
from imagen_async.cli import main
sys.argv = ["imagen-async", "--help"]
try:
    main()
finally:
    print("aiohttp" in sys.modules, file=sys.stderr)
"""


def run(code: str, bytecode: str) -> tuple[float, str]:
    """Return the milliseconds that an interpreter took, with its start, and its stderr.

    Args:
        code: What it does.
        bytecode: The folder where what it imports is kept compiled.
    """
    settings = {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", code]
    began = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | settings
    )
    return (time.perf_counter() - began) * 1e3, done.stderr


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as bytecode:
        measure(rounds, bytecode)


def measure(rounds: int, bytecode: str) -> None:
    """Print each figure beside its bound."""
    for code in (AIOHTTP, OURS, BLOCKING, HELP):
        run(code, bytecode)
    took: dict[str, list[float]] = {code: [] for code in ("pass", AIOHTTP, OURS, BLOCKING, HELP)}
    for _ in range(rounds):
        for code, times in took.items():
            times.append(run(code, bytecode)[0])
    start = statistics.median(took["pass"])
    for code in (AIOHTTP, OURS, BLOCKING):
        print(f"{code:42} {statistics.median(took[code]) - start:7.1f} ms, start taken off")
    for code in (OURS, BLOCKING):
        pairs = zip(took["pass"], took[AIOHTTP], took[code], strict=True)
        ratio = statistics.median((ours - bare) / (theirs - bare) for bare, theirs, ours in pairs)
        print(f"{code:42} {ratio:7.2f} times aiohttp's (bound <= 1.3)")
    loaded = run(HELP, bytecode)[1].split()[-1]
    print(f"{'imagen-async --help':42} {statistics.median(took[HELP]):7.1f} ms (bound <= 80)")
    print(f"{'aiohttp in its sys.modules':42} {loaded}")


if __name__ == "__main__":
    main()
