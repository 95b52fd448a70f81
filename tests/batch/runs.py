"""What the tests of batches share: a client's core on an emulator, and runs to their end."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from imagen_async.batch import schema
from imagen_async.batch.report import Report
from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator
from imagen_async.policy.config import Limits
from imagen_async.policy.retry import RetryPolicy
from imagen_async.session.config import Config
from imagen_async.session.core import Core
from imagen_async.session.stream import Outcome
from imagen_async.wire.request import GenerationRequest


def core_on(
    emulator: Emulator,
    *,
    concurrency: int = 2,
    allow_private: bool = False,
    key_honoured: bool = False,
    **policy: Any,
) -> Core:
    """Return the core of a client of an emulator, with quick retries."""
    return Core(
        Config(
            base_url=emulator.base_url,
            api_key="sk-secret-canary",
            model="imagen4",
            limits=Limits(concurrency=concurrency),
            retry=RetryPolicy(backoff_base=0.001, **policy),
            allow_private=allow_private,
            key_honoured=key_honoured,
        )
    )


def b64(*prompts: str, **fields: Any) -> list[GenerationRequest]:
    """Return requests whose images come inside the answer."""
    return [GenerationRequest(prompt, response_format="b64_json", **fields) for prompt in prompts]


async def run_all(
    core: Core, requests: Any, out: Path, **options: Any
) -> tuple[list[Outcome], Report]:
    """Run a batch to its end; the client stays open."""
    run = Run(core, requests, out, RunOptions(**{"gallery": False, **options}))
    async with run:
        outcomes = [outcome async for outcome in run]
    return outcomes, run.report


def view(out: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of one of a run's lists."""
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_bytes().splitlines()]


def execute(out: Path, statement: str) -> list[Any]:
    """Run a statement on a run's journal, which no run has open, and return its rows."""
    with closing(sqlite3.connect(out / schema.NAME)) as connection, connection:
        return connection.execute(statement).fetchall()


def images(out: Path) -> list[Path]:
    """Return the finished files of a run."""
    return sorted(path for path in (out / "images").rglob("*") if path.suffix == ".png")


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.batch.runs import core_on
from imagen_async.batch.run import Run, RunOptions
from imagen_async.wire.request import GenerationRequest

class Remote:
    base_url = sys.argv[1]

async def main():
    core = core_on(Remote, concurrency=8)
    requests = [
        GenerationRequest(f"p{i}", response_format="url" if i % 3 else "b64_json")
        for i in range(int(sys.argv[3]))
    ]
    run = Run(core, requests, Path(sys.argv[2]), RunOptions(gallery=False))
    async with run:
        async for outcome in run:
            print(outcome.index, flush=True)
    await core.aclose()

asyncio.run(main())
"""
"""A process that runs a batch: it is given the base URL, the folder and how many prompts."""
