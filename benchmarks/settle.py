"""Settle a batch's doubts by the emulator's logs, and compare with its ledger.

Run it with ``python -m benchmarks.settle [--prompts 2000]``. A tenth of the answers is lost, half
of them after they were charged. The batch is run and settled until nothing is new; what is counted
is how many doubts were settled, how many of them wrongly, and how many prompts were charged twice.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from imagen_async import AsyncImagen, Charge, Limits
from imagen_async.emulator import Emulator, FaultRule

RULES = (
    FaultRule(fault="504", probability=0.05),
    FaultRule(fault="accept_then_close", probability=0.05),
)
HORIZON = 0.001
"""Seconds: the emulator's rows are never late."""


async def settled(log: str, prompts: int, concurrency: int) -> dict[str, object]:
    """Return what settling by one kind of log came to."""
    texts = [f"prompt {number}" for number in range(prompts)]
    rounds = doubts = free = charged = left = wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        async with (
            Emulator(draw="tiny", call_log=log, faults=RULES, latency=0.02) as emulator,
            AsyncImagen(
                base_url=emulator.base_url,
                api_key="sk-1",
                limits=Limits(concurrency=concurrency),
                allow_private=True,
            ) as imagen,
        ):
            ledger = emulator.ledger
            while True:
                rounds += 1
                async with imagen.batch(texts, out=out, gallery=False) as run:
                    async for _ in run:
                        pass
                result = await imagen.settle(out, log=log, horizon=HORIZON)  # type: ignore[arg-type]
                doubts += len(result.items)
                for item in result.items:
                    really = Charge.YES if ledger[item.prompt].charged else Charge.NO
                    wrong += item.charge not in (Charge.MAYBE, really)
                free += result.count(Charge.NO)
                charged += result.count(Charge.YES)
                left = result.count(Charge.MAYBE)
                if not result.count(Charge.NO):
                    break
            twice = sum(account.charged > 1 for _, account in ledger.items())
    return {
        "log": log,
        "prompts": prompts,
        "rounds": rounds,
        "in doubt": doubts,
        "settled free / charged": f"{free} / {charged}",
        "stay in doubt": left,
        "wrong": wrong,
        "charged twice": twice,
        "problem": result.problem or "; ".join(sorted({item.why for item in result.items})),
        "done": run.report.done,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    for log in ("litellm", "aimlapi", "newapi"):
        for name, value in asyncio.run(settled(log, options.prompts, options.concurrency)).items():
            print(f"  {name:24} {value}", flush=True)


if __name__ == "__main__":
    main()
