"""The benchmark of the README: the same work through each client, against one server process.

Run as ``python benchmarks/run.py``; see ``benchmarks/README.md``. It writes ``results.json``,
``results.md`` and the chart ``docs/benchmark.png``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import (
    CHECKOUT,
    ENVIRONMENTS,
    HERE,
    Bench,
    BrokenChildError,
    Environments,
    Figures,
    Side,
    machine,
    median,
    ratios,
    serving,
)
from table import markdown

PLAIN = Side("aiohttp script", "plain", "plain_aiohttp.py")
OURS = Side("imagen_async", "ours", "imagen.py")
PLAIN_UVLOOP = Side("aiohttp script, uvloop", "plain", "plain_aiohttp.py", ("--uvloop",))
OURS_UVLOOP = Side("imagen_async, uvloop", "ours", "imagen.py", ("--uvloop",))
OPENAI = Side("openai", "openai", "openai_python.py")
OPENAI_AIOHTTP = Side("openai, aiohttp", "openai", "openai_python.py", ("--variant", "aiohttp"))
LITELLM = Side("litellm", "litellm", "litellm_sdk.py")
FSYNC = Side("aiohttp script, fsync", "plain", "plain_aiohttp.py", ("--variant", "fsync"))
RETRY = Side("aiohttp script, 3 attempts", "plain", "plain_aiohttp.py", ("--variant", "retry"))
TWICE = Side("imagen_async, max_charges=2", "ours", "imagen.py", ("--variant", "two"))
BATCH = Side("imagen_async", "ours", "imagen_batch.py")

ALL = (PLAIN, OURS, PLAIN_UVLOOP, OURS_UVLOOP, OPENAI, OPENAI_AIOHTTP, LITELLM)
IMPORTS = {
    PLAIN: "import aiohttp",
    OURS: "from imagen_async import AsyncImagen",
    OPENAI: "from openai import AsyncOpenAI",
    LITELLM: "import litellm",
}
FAULTS = ("drop", "cut", "504")


@dataclass(frozen=True)
class Load:
    """One kind of work that is timed.

    Args:
        work: Of the clients' scripts.
        path: Of the server.
        calls: In one run of one client.
        rounds: Of all clients in turn.
        in_flight: Calls at once.
        warm: Calls before those that are measured.
        sides: Who takes part.
    """

    work: str
    path: str
    calls: int
    rounds: int
    in_flight: int = 64
    warm: int = 0
    sides: tuple[Side, ...] = ALL

    def quick(self) -> Load:
        """Return a sketch of it."""
        calls = max(self.calls // 3, min(self.calls, 2 * self.in_flight))
        return replace(self, calls=calls, rounds=1)


LOADS = {
    "links": Load("link", "", 3000, 7, warm=200),
    "images": Load("files", "/b64", 192, 3, warm=4, sides=(*ALL[:2], FSYNC, *ALL[2:])),
    "thousand": Load("link", "/slow", 5000, 3, in_flight=1000, warm=20),
}
ITEMS = 20_000


def timed(bench: Bench, load: Load, sides: tuple[Side, ...], say: Say) -> dict[str, Any]:
    """Run rounds of one work, every side in turn; return medians, and ratios within a round."""
    rounds: list[dict[str, Figures]] = []
    errors: dict[str, str] = {}
    for number in range(load.rounds):
        rounds.append({})
        for side in sides:
            if side.name in errors:
                continue
            options = ("--calls", load.calls, "--in-flight", load.in_flight, "--warm", load.warm)
            try:
                rounds[-1][side.name] = bench.run(side, load.work, load.path, *options)
            except BrokenChildError as error:
                errors[side.name] = str(error)
            say(f"round {number + 1} of {load.rounds}: {side.name}", rounds[-1].get(side.name))
    return {
        "calls": load.calls,
        "in_flight": load.in_flight,
        "rounds": load.rounds,
        "sides": {
            side.name: summary(rounds, side.name) for side in sides if side.name not in errors
        },
        "errors": errors,
    }


def summary(rounds: list[dict[str, Figures]], name: str, base: str = PLAIN.name) -> Figures:
    """Return a side's medians, and those of its ratios to the plain script's neighbouring run."""
    own = [each[name] for each in rounds if name in each]
    figures = {
        "cpu_us": median(each["cpu"] / each["calls"] * 1e6 for each in own),
        "per_second": median(each["calls"] / each["wall"] for each in own),
        "peak_mib": median(each["peak_mib"] for each in own),
    }
    if any(base in each for each in rounds):
        figures["cpu_ratio"] = median(ratios(rounds, "cpu", base, name), 3)
        figures["throughput_ratio"] = median((1 / x for x in ratios(rounds, "wall", base, name)), 3)
    return figures


def imports(bench: Bench, rounds: int, say: Say) -> dict[str, Any]:
    """Time imports in fresh processes, and whole processes that get one link answer."""
    code = "import time; b = time.perf_counter(); {}; print(time.perf_counter() - b)"
    sides = tuple(side for side in IMPORTS if bench.has(side))
    found: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    for _ in range(rounds + 1):  # the first one fills the disk's cache
        for side in sides:
            took = float(bench.python(side, code.format(IMPORTS[side])))
            began = time.perf_counter()
            bench.run(side, "link", "")
            found[side.name].append((took, time.perf_counter() - began))
    say("imports", None)
    return {
        "rounds": rounds,
        "sides": {
            name: {
                "import_s": median((each[0] for each in times[1:]), 3),
                "first_answer_s": median((each[1] for each in times[1:]), 3),
            }
            for name, times in found.items()
        },
    }


def batches(bench: Bench, items: int, rounds: int, say: Say) -> dict[str, Any]:
    """Time a durable batch of small images, and ``generate_many`` beside it."""
    if not bench.has(BATCH):
        return {"sides": {}}
    done: dict[str, list[Figures]] = {"many": [], "batch": []}
    for _ in range(rounds):
        for work, figures in done.items():
            figures.append(bench.run(BATCH, work, "/small", "--calls", items))
            say(f"{work} of {items}", figures[-1])
    sides = {
        work: {
            "cpu_us": median(each["cpu"] / items * 1e6 for each in figures),
            "per_second": median(items / each["wall"] for each in figures),
            "peak_mib": median(each["peak_mib"] for each in figures),
        }
        for work, figures in done.items()
    }
    return {"items": items, "rounds": rounds, "sides": sides}


def charges(bench: Bench, calls: int, say: Say) -> dict[str, Any]:
    """Count charges and images per call while the server charges and then fails."""
    sides = [s for s in (OURS, TWICE, RETRY, OPENAI, OPENAI_AIOHTTP, LITELLM) if bench.has(s)]
    found: dict[str, dict[str, Any]] = {}
    for number, side in enumerate(sides):
        found[side.name] = {}
        for kind in FAULTS:
            for when in ("always", "once"):
                path = f"/fault/{kind}/{when}/{number}"
                figures = bench.run(side, "link", path, "--faults", "--calls", calls)
                account = bench.ledger()[f"{path}/v1"]
                found[side.name][f"{kind}, {when}"] = {
                    "charges": account["charges"] / calls,
                    "images": figures["done"] / calls,
                }
        say(f"charges of {side.name}", None)
    return {"calls": calls, "sides": found}


Say = Callable[[str, Figures | None], None]


def say(what: str, figures: Figures | None) -> None:
    """Tell how far it is."""
    shown = ""
    if figures:
        shown = (
            f": {figures['cpu'] / figures['calls'] * 1e6:.0f} us of CPU,"
            f" {figures['calls'] / figures['wall']:.0f}/s, {figures['peak_mib']:.0f} MiB"
        )
    print(f"  {what}{shown}", file=sys.stderr, flush=True)


def measure(bench: Bench, chosen: argparse.Namespace) -> dict[str, Any]:
    """Do every work that was chosen, and return the results by its name."""
    results: dict[str, Any] = {}
    for name in chosen.works:
        print(name, file=sys.stderr, flush=True)
        if name in LOADS:
            load = LOADS[name].quick() if chosen.quick else LOADS[name]
            sides = tuple(side for side in load.sides if bench.has(side))
            results[name] = timed(bench, load, sides, say)
        elif name == "imports":
            results[name] = imports(bench, 1 if chosen.quick else 5, say)
        elif name == "batch":
            items, rounds = (ITEMS // 10, 1) if chosen.quick else (ITEMS, 2)
            results[name] = batches(bench, items, rounds, say)
        else:
            results[name] = charges(bench, 4 if chosen.quick else 20, say)
    return results


WORKS = (*LOADS, "imports", "batch", "charges")


@contextmanager
def folder(given: Path | None, prefix: str) -> Iterator[Path]:
    """Give the folder that was asked for, or one that goes away."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix=prefix) as made:
            yield Path(made)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()


def results_of(environments: Environments, works: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    """Return all that is to be known of a run."""
    return {
        "machine": machine(),
        "versions": environments.versions(),
        "quick": quick,
        "missing": environments.missing,
        "works": works,
    }


def write(results: dict[str, Any], where: Path) -> None:
    """Write the results as JSON and as Markdown."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (where / "results.md").write_text(markdown(results))


def main() -> None:
    """Prepare, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sketch in a few minutes")
    parser.add_argument("--venvs", type=Path, help="where environments are kept for the next run")
    parser.add_argument("--out", type=Path, help="where images are written: a real disk")
    parser.add_argument("--results", type=Path, default=HERE, help="where results are written")
    parser.add_argument("--chart", type=Path, default=CHECKOUT / "docs" / "benchmark.png")
    parser.add_argument("works", nargs="*", choices=(*WORKS, []), help="which; all by default")
    chosen = parser.parse_args()
    chosen.works = chosen.works or list(WORKS)
    began = time.monotonic()
    with folder(chosen.venvs, "bench-venvs-") as venvs, folder(chosen.out, "bench-out-") as out:
        environments = Environments(venvs)
        environments.prepare(ENVIRONMENTS)
        with serving(environments, out) as bench:
            works = measure(bench, chosen)
        write(results_of(environments, works, quick=chosen.quick), chosen.results)
        if "chart" not in environments.missing:
            source = chosen.results / "results.json"
            command = [environments.python("chart"), str(HERE / "chart.py"), str(source)]
            subprocess.run([*command, str(chosen.chart)], check=True)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
