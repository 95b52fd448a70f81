"""Kill a batch again and again, and count at the gateway what that cost.

Run it with ``python benchmarks/kill_loop.py [--kills 100] [--items 20000] [--tasks]``; with the
last the gateway answers with tasks, and most kills come while they are polled. A child process runs
the batch against the emulator of this one and is ended by SIGKILL at a random moment; the next
child goes on with the folder, which is done once with ``on_unknown="hold"`` and once with
``"resend"``. At the end every image is read, and the emulator's ledger is compared with the lists.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from imagen_async import AsyncImagen, GenerationRequest, Limits
from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator
from imagen_async.wire.image_header import inspect

CONCURRENCY = 32


async def child(base_url: str, out: Path, items: int, on_unknown: str) -> None:
    """Run the batch to its end, unless killed; say when it has begun."""
    requests = (
        GenerationRequest(f"item {number}", response_format="url" if number % 4 else "b64_json")
        for number in range(items)
    )
    async with AsyncImagen(
        base_url=base_url, model="imagen4", limits=Limits(concurrency=CONCURRENCY)
    ) as imagen:
        options = RunOptions(on_unknown=on_unknown, gallery=False)  # type: ignore[arg-type]
        async with Run(imagen._core, requests, out, options) as run:
            print("begun", flush=True)
            async for _ in run:
                pass


async def loop(
    on_unknown: str, kills: int, items: int, seed: int, *, tasks: bool
) -> dict[str, object]:
    """Return what a loop of kills came to."""
    draw = random.Random(seed)
    out = Path(tempfile.mkdtemp(prefix="imagen-kills-")) / "out"
    began, killed, most, before = time.monotonic(), 0, 0, 0
    # Divided by the scale: a second, polled again and again; orders leave at once and then wait.
    slow: dict[str, Any] = {"latency": 50.0, "time_scale": 50.0, "tasks": "202"}
    pace: dict[str, Any] = slow if tasks else {"latency": 0.05}
    async with Emulator(draw="tiny", log_size=1, **pace) as emulator:
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "--child", emulator.base_url, str(out), str(items)),
                on_unknown,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            await process.stdout.readline()
            in_doubt = count_unknown(out)
            most, before = max(most, in_doubt - before), in_doubt
            if killed < kills:
                await asyncio.sleep(draw.uniform(0.3, 0.9) if tasks else draw.uniform(0.0, 0.6))
                if process.returncode is None:
                    process.kill()
                    killed += 1
            if await process.wait() == 0:
                break
        found = verdict(out, emulator)
    shutil.rmtree(out.parent)
    return {
        "on_unknown": on_unknown,
        "kills": killed,
        **found,
        "unknown per kill": round(int(str(found["unknown"])) / max(1, killed), 2),
        "most unknown of a kill": most,
        "seconds": round(time.monotonic() - began),
    }


def count_unknown(out: Path) -> int:
    """Return how many items are in doubt, by the list; a kill may leave a line of it half."""
    path = out / "unknown.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return sum(b'"type": "OutcomeUnknownError"' in line for line in lines)


def verdict(out: Path, emulator: Emulator) -> dict[str, object]:
    """Compare the folder with the ledger."""
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_bytes().splitlines()]
    listed = {row["file_name"]: row for row in rows}
    lost = torn = 0
    for name, row in listed.items():
        path = out / name
        lost += not path.exists()
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            torn += 1
    files = [path for path in (out / "images").rglob("*") if path.is_file()]
    torn += sum(not inspect(path.read_bytes()).complete for path in files)
    report = json.loads((out / "report.json").read_text())
    accounts = [account for _, account in emulator.ledger.items()]
    unknown = {
        json.loads(line)["prompt"] for line in (out / "unknown.jsonl").read_bytes().splitlines()
    }
    here = {row["prompt"] for row in rows}
    paid = {prompt for prompt, account in emulator.ledger.items() if account.charged}
    return {
        "items": report["total"],
        "done": report["done"],
        "done lost": lost,
        "torn files": torn,
        "files not listed": len(files) - len(listed),
        "ordered more than once": sum(account.posts > 1 for account in accounts),
        "charged": sum(account.charged for account in accounts),
        "charged twice": sum(account.charged - 1 for account in accounts if account.charged > 1),
        "paid, neither here nor listed": len(paid - here - unknown),
        "resent": report["resent"],
        "unknown": report["unknown"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", action="store_true")
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        base_url, out, items, on_unknown = options.child
        asyncio.run(child(base_url, Path(out), int(items), on_unknown))
        return
    print(f"seed {options.seed}, concurrency {CONCURRENCY}")
    for on_unknown in ("hold",) if options.tasks else ("hold", "resend"):
        result = asyncio.run(
            loop(on_unknown, options.kills, options.items, options.seed, tasks=options.tasks)
        )
        for name, value in result.items():
            print(f"  {name:30} {value}", flush=True)


if __name__ == "__main__":
    main()
