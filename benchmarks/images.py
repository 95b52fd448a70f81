"""What megabytes of images cost, and whether the goals hold: CPU, memory, downloads, stalls.

Run as ``python benchmarks/images.py --out FOLDER``, the folder on a real disk. All clients work in
turn against one server process; see ``benchmarks/README.md`` for the method.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import Bench, BrokenChildError, Environments, Figures, Side, median, ratios, serving
from run import FSYNC, OPENAI, OURS, PLAIN, folder, say

IN_FLIGHT = 64
TIMES_MORE = 8

Rounds = list[dict[str, Figures]]


def rounds_of(
    bench: Bench, sides: Sequence[Side], rounds: int, work: str, path: str, *options: object
) -> Rounds:
    """Let each side do the same in turn, several times."""
    found: Rounds = []
    for _ in range(rounds):
        found.append({})
        for side in sides:
            try:
                found[-1][side.name] = bench.run(side, work, path, *options)
            except BrokenChildError as error:
                print(f"  {error}", file=sys.stderr)
                continue
            say(f"{work}{path}: {side.name}", found[-1][side.name])
    return found


def middle(rounds: Rounds, side: Side, key: str) -> float:
    """Return the median of a side's figure."""
    return median(each[side.name][key] for each in rounds if side.name in each)


def goal(what: str, value: float, sign: str, bound: float, unit: str = "") -> bool:
    """Print a figure beside its goal; return whether it holds."""
    holds = value <= bound if sign == "<=" else value >= bound
    print(f"{what:64} {value:8.3g} {unit:4} {sign} {bound:<5g} {'ok' if holds else 'MISSED'}")
    return holds


def to_files(bench: Bench, sides: Sequence[Side], rounds: int, calls: int) -> list[bool]:
    """Compare the CPU of base64 answers on their way into files."""
    options = ("--calls", calls, "--in-flight", IN_FLIGHT, "--warm", 4)
    found = rounds_of(bench, sides, rounds, "files", "/b64", *options)
    for side in sides:
        if any(side.name in each for each in found):
            cpu = median(
                each[side.name]["cpu"] / calls * 1e3 for each in found if side.name in each
            )
            mib = middle(found, side, "peak_mib")
            print(f"  {side.name:30} {cpu:6.1f} ms of CPU an answer, peak {mib:.0f} MiB")
    held = [
        goal(
            f"CPU of an answer to files, beside {PLAIN.name}",
            median(ratios(found, "cpu", PLAIN.name, OURS.name), 3),
            "<=",
            0.55,
            "x",
        )
    ]
    if any(OPENAI.name in each for each in found):
        times = median(ratios(found, "cpu", OURS.name, OPENAI.name), 3)
        held.append(goal("openai's CPU of it, beside ours", times, ">=", 4, "x"))
    return held


def memory(bench: Bench, calls: int) -> list[bool]:
    """Compare the peak memory of many answers with that of eight times as many."""
    options = ("--in-flight", IN_FLIGHT, "--discard", "--calls")
    few = bench.run(OURS, "files", "/b64", *options, calls)["peak_mib"]
    many = bench.run(OURS, "files", "/b64", *options, calls * TIMES_MORE)["peak_mib"]
    return [
        goal(f"peak memory of {calls} answers", few, "<=", 120, "MiB"),
        goal(f"growth with {calls * TIMES_MORE} answers", many - few, "<=", 20, "MiB"),
    ]


def downloads(bench: Bench, rounds: int, calls: int) -> list[bool]:
    """Compare downloads that are synced with a bare loop that only writes."""
    options = ("--calls", calls, "--in-flight", IN_FLIGHT, "--warm", 4)
    found = rounds_of(bench, (PLAIN, OURS), rounds, "download", "/link", *options)
    for side in (PLAIN, OURS):
        print(f"  {side.name:30} {calls / middle(found, side, 'wall'):6.0f} downloads/s")
    value = 1 / median(ratios(found, "wall", PLAIN.name, OURS.name), 3)
    what = f"1.5 MB downloads, synced, beside {PLAIN.name} without a sync"
    return [goal(what, value, ">=", 0.75, "x")]


def stalls(bench: Bench, sides: Sequence[Side], rounds: int) -> list[bool]:
    """Compare the longest callback of the loop while images of 16 MiB come."""
    options = ("--calls", 3, "--in-flight", 1, "--warm", 1, "--callbacks")
    held = []
    for work in ("images", "files"):
        found = rounds_of(bench, sides, rounds, work, "/one", *options)
        for side in sides:
            if any(side.name in each for each in found):
                wall = middle(found, side, "longest_ms")
                cpu = middle(found, side, "longest_cpu_ms")
                print(f"  {side.name:30} longest callback {wall:6.1f} ms, {cpu:6.1f} ms of CPU")
        where = "memory" if work == "images" else "a file"
        value = middle(found, OURS, "longest_ms")
        held.append(goal(f"longest callback, 16 MiB of base64 to {where}", value, "<=", 5, "ms"))
    return held


def main() -> None:
    """Prepare, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--venvs", type=Path, help="where environments are kept for the next run")
    parser.add_argument("--out", type=Path, help="where images are written: a real disk")
    parser.add_argument("works", nargs="*", choices=("files", "memory", "downloads", "stalls", []))
    chosen = parser.parse_args()
    rounds = 1 if chosen.quick else 5
    held: list[bool] = []
    with folder(chosen.venvs, "bench-venvs-") as venvs, folder(chosen.out, "bench-out-") as out:
        environments = Environments(venvs)
        environments.prepare(("plain", "ours", "openai"))
        with serving(environments, out) as bench:
            sides = [side for side in (PLAIN, OURS, FSYNC, OPENAI) if bench.has(side)]
            whole = [side for side in sides if side is not FSYNC]
            wanted = chosen.works or ("files", "memory", "downloads", "stalls")
            if "files" in wanted:
                held += to_files(bench, sides, rounds, 96)
            if "memory" in wanted:
                held += memory(bench, 96)
            if "downloads" in wanted:
                held += downloads(bench, rounds, 384)
            if "stalls" in wanted:
                held += stalls(bench, whole, rounds)
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
