"""Press Ctrl-C once in scripts whose loop is busy, and count those that hang.

Run it with ``python benchmarks/ctrl_c.py [--tries 200] [--seed 1]``. Each try is a process of its
own with a blocking client, one real SIGINT at a random moment, and a bound for its end. The loop
is kept busy by a hook that sleeps on it, by sleep that follows a call, or by work that comes again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imagen_async import Imagen, Limits
from imagen_async.emulator import Emulator
from imagen_async.session.events import Done, Event

ENDS_WITHIN = 60.0
"""Seconds from the signal to the end of the process; a try that takes longer hangs."""
VERBS = ("generate", "generate_many", "batch")
THREADS = (1, 16)
BUSY = ("hook", "after", "spin", "idle")
HELD = {1: 0.2, 16: 0.01}
"""Seconds that the loop is held at a time, by the number of threads: each has its calls."""


class Busy:
    """A hook that keeps its loop busy."""

    def __init__(self, how: str, seconds: float) -> None:
        self._how = how
        self._seconds = seconds

    def __call__(self, event: Event) -> None:
        if self._how == "hook":
            time.sleep(self._seconds)
        elif self._how == "after" and isinstance(event, Done):
            asyncio.get_running_loop().call_soon(time.sleep, self._seconds)
        elif self._how == "spin":
            self._how = "spins"
            self._spin()

    def _spin(self) -> None:
        until = time.perf_counter() + self._seconds
        while time.perf_counter() < until:
            pass
        asyncio.get_running_loop().call_later(self._seconds / 4, self._spin)


def child(base_url: str, verb: str, threads: int, how: str) -> None:
    """Call without end; after Ctrl-C tell what still runs for nobody, and end."""
    # Where a shell started this in the background, it is to be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    over = threading.Event()
    busy = Busy(how, HELD[threads])
    limits = Limits(concurrency=4)

    def use(imagen: Imagen, number: int) -> None:
        if verb == "generate":
            while not over.is_set():
                imagen.generate("A fox")
            return
        prompts = (f"Fox {number} {count}" for count in itertools.count())
        opened = (
            imagen.generate_many(prompts)
            if verb == "generate_many"
            else imagen.batch(prompts, out=f"out-{number}", gallery=False)
        )
        with opened as outcomes:
            for _ in outcomes:
                if over.is_set():
                    break

    with Imagen(base_url=base_url, limits=limits, on_event=busy) as imagen:
        others = [threading.Thread(target=use, args=(imagen, n)) for n in range(1, threads)]
        for other in others:
            other.start()
        try:
            print("begun", flush=True)
            use(imagen, 0)
        except KeyboardInterrupt:
            over.set()
            for other in others:
                other.join()
            stats = imagen.stats()
            print(stats.in_flight + stats.queued, flush=True)


def press(base_url: str, verb: str, threads: int, how: str, wait: float) -> str:
    """Return how one try ended."""
    with tempfile.TemporaryDirectory(prefix="imagen-ctrl-c-") as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-X", "faulthandler", str(Path(__file__).resolve())),
                *("--child", base_url, verb, str(threads), how),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        try:
            out, complaints = process.communicate(timeout=ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            complaints = process.communicate()[1]
            sys.stderr.write(complaints)
            return "hangs"
    if out == "0\n" and not complaints:
        return "ends"
    sys.stderr.write(f"{verb}, {threads} threads, {how}: {out}{complaints}")
    return "leaves calls running" if out else "ends in an error"


def tries(count: int, seed: int, at_once: int = 2) -> Counter[str]:
    """Return how many of so many tries ended how."""
    draw = random.Random(seed)
    ways = list(itertools.product(VERBS, THREADS, BUSY))
    picked = [way for _ in range(0, count, len(ways)) for way in draw.sample(ways, len(ways))]
    with Emulator(draw="tiny", latency=0.02, log_size=1) as emulator:

        def one(way: tuple[str, int, str], wait: float) -> tuple[tuple[str, int, str], str]:
            return way, press(emulator.base_url, *way, wait)

        with ThreadPoolExecutor(at_once) as pool:
            ended = list(pool.map(one, picked[:count], [draw.random() for _ in range(count)]))
    for way, how in ended:
        if how != "ends":
            print("  ", *way, how)
    return Counter(how for _, how in ended)


def main() -> None:
    """Try as often as was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        base_url, verb, threads, how = options.child
        child(base_url, verb, int(threads), how)
        return
    counted = tries(options.tries, options.seed)
    print(f"seed {options.seed}, {options.tries} tries, hangs {counted['hangs']}:", dict(counted))


if __name__ == "__main__":
    main()
