"""Kill a batch again and again, and count at the gateway what that cost.

Run it with ``python benchmarks/kill_loop.py [--kills 100] [--items 20000] [--tasks | --shards 8]``.
With ``--tasks`` the gateway answers with tasks, and most kills come while they are polled. A child
process runs the batch against the emulator of this one and is ended by SIGKILL at a random moment;
the next child goes on with the folder, which is done once with ``on_unknown="hold"`` and once with
``"resend"``. With ``--shards`` two commands share the batch, one of which is killed each time. At
the end every image is read, and the emulator's ledger is compared with the lists.
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
from collections import Counter
from pathlib import Path
from typing import Any

from imagen_async import AsyncImagen, GenerationRequest, Limits
from imagen_async.batch.merge import merge
from imagen_async.batch.run import Run, RunOptions
from imagen_async.batch.status import BatchStatus, batch_status
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


async def shard_loop(shards: int, kills: int, items: int, seed: int) -> dict[str, object]:
    """Return what a loop of kills came to, of two commands that share a batch in shards."""
    draw = random.Random(seed)
    out = Path(tempfile.mkdtemp(prefix="imagen-kills-")) / "out"
    source = out.with_name("in.txt")
    source.write_text("".join(f"item {number}\n" for number in range(items)))
    began, killed = time.monotonic(), 0
    async with Emulator(draw="tiny", log_size=1, latency=0.05) as emulator:
        words = ("batch", str(source), "--out", str(out), "--base-url", emulator.base_url, "-q")
        command = (*words, "--shards", str(shards), "--concurrency", str(CONCURRENCY))

        async def worker() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "imagen_async", *command),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )

        workers = [await worker(), await worker()]
        cuts: Counter[str] = Counter()
        while killed < kills and len(emulator.ledger) < items:
            # Spread over the whole run: a kill meets requests under way.
            while len(emulator.ledger) < items * (killed + 1) // (kills + 2):
                await asyncio.sleep(0.01)
            await asyncio.sleep(draw.uniform(0.0, 0.3))
            doomed = workers.pop(draw.randrange(2))
            before = set(batch_status(out).phases("cut off"))
            killed += doomed.returncode is None
            if doomed.returncode is None:
                doomed.kill()
            await doomed.wait()
            cuts.update(set(batch_status(out).phases("cut off")) - before)
            workers.append(await worker())
        await asyncio.gather(*(each.wait() for each in workers))
        await (await worker()).wait()
        merge(out)
        found = verdict(out, emulator)
        status = batch_status(out)
        found["shards ended"] = len(status.phases("ended"))
        doubt = {each.name: BatchStatus(folders=(each,)).report.unknown for each in status.folders}
        most = max(doubt[name] / max(1, cuts[name]) for name in doubt)
    shutil.rmtree(out.parent)
    return {
        "shards": shards,
        "kills": killed,
        **found,
        "unknown per kill": round(int(str(found["unknown"])) / max(1, killed), 2),
        "the same in the worst shard": round(most, 2),
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
    files = [path for path in out.rglob("images/**/*") if path.is_file()]
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
    parser.add_argument("--shards", type=int)
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        base_url, out, items, on_unknown = options.child
        asyncio.run(child(base_url, Path(out), int(items), on_unknown))
        return
    print(f"seed {options.seed}, concurrency {CONCURRENCY}")
    common = (options.kills, options.items, options.seed)
    if options.shards:
        loops = [shard_loop(options.shards, *common)]
    else:
        ways = ("hold",) if options.tasks else ("hold", "resend")
        loops = [loop(way, *common, tasks=options.tasks) for way in ways]
    for each in loops:
        result = asyncio.run(each)
        for name, value in result.items():
            print(f"  {name:30} {value}", flush=True)


if __name__ == "__main__":
    main()
