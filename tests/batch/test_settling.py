"""Settling a batch's doubts by the gateway's own log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imagen_async import AsyncImagen, CallLogError, Charge, ConfigurationError, Imagen
from imagen_async.batch.journal import look
from imagen_async.batch.prompts import read_source
from imagen_async.batch.settling import settle
from imagen_async.batch.shards import Shard
from imagen_async.batch.states import State
from imagen_async.emulator import Emulator, FaultRule
from tests.batch.runs import b64, core_on, execute, run_all, view

CHARGED = FaultRule(fault="504", probability=0.2)
"""A front that gives up while the origin draws and charges."""


def prompts(count: int) -> list[Any]:
    return b64(*(f"prompt {number}" for number in range(count)))


@pytest.mark.parametrize("log", ["litellm", "aimlapi"])
async def test_an_exact_log_settles_every_doubt(log: str, tmp_path: Path) -> None:
    """What it shows as charged stays listed, with the gateway's id and what to do with it."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", call_log=log, faults=(CHARGED,)) as emulator:
        core = core_on(emulator, concurrency=4)
        _, report = await run_all(core, prompts(60), out)
        assert report.unknown > 3
        settled = await settle(core, out, log=log, horizon=0.001)
        rows = view(out, "unknown")
        await core.aclose()

    assert settled.count(Charge.YES) == report.unknown
    assert settled.most == settled.least == emulator.ledger.total.charged - report.done
    assert [row["error"]["charge"] for row in rows] == ["yes"] * report.unknown
    assert all("support" in row["error"]["message"] for row in rows)
    assert all(row["error"]["request_id"] for row in rows)


async def test_what_was_free_is_bought_once_by_the_next_run(tmp_path: Path) -> None:
    """Settle, run, settle, until nothing is new: each prompt is charged once and none twice."""
    out = tmp_path / "out"
    rules = (CHARGED, FaultRule(fault="accept_then_close", probability=0.3, times=20))
    async with Emulator(draw="tiny", call_log="aimlapi", faults=rules) as emulator:
        core = core_on(emulator, concurrency=4)
        _, report = await run_all(core, prompts(60), out)
        for _ in range(10):
            settled = await settle(core, out, log="aimlapi", horizon=0.001)
            if not settled.count(Charge.NO):
                break
            _, report = await run_all(core, prompts(60), out)
        await core.aclose()

    assert report.done + report.unknown == 60
    charges = [emulator.ledger[f"prompt {number}"].charged for number in range(60)]
    assert charges == [1] * 60
    assert settled.count(Charge.MAYBE) == 0


async def test_a_dry_run_keeps_nothing(tmp_path: Path) -> None:
    """It says what would be settled, and the journal and the lists stay as they are."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", call_log="aimlapi") as emulator:
        core = core_on(emulator)
        await run_all(core, prompts(3), out)
        emulator.fail_next("504")
        await run_all(core, prompts(4), out)
        before = (out / "unknown.jsonl").read_bytes()
        settled = await settle(core, out, log="aimlapi", dry_run=True)
        await core.aclose()

    assert settled.dry_run
    assert settled.count(Charge.YES) == 1
    assert (out / "unknown.jsonl").read_bytes() == before
    assert execute(out, "SELECT count(*) FROM evidence") == [(0,)]


async def test_each_decision_is_kept_with_its_evidence(tmp_path: Path) -> None:
    """The journal has the rule, the log and its row of each item that was settled."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", call_log="litellm") as emulator:
        core = core_on(emulator)
        await run_all(core, prompts(3), out)
        emulator.fail_next("504")
        await run_all(core, prompts(4), out)
        await settle(core, out)
        await core.aclose()
    ((told,),) = execute(out, "SELECT decision FROM evidence")
    decision = json.loads(told)

    assert (decision["charge"], decision["log"]) == ("yes", "litellm")
    assert decision["rule"] == "the log shows its charge"
    assert decision["rows"][0]["kind"] == "charged"


async def test_a_log_that_is_switched_off_settles_nothing(tmp_path: Path) -> None:
    """An empty log proves nothing: all stays in doubt, and nothing is sent by the next run."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", call_log="newapi", call_log_off=True) as emulator:
        core = core_on(emulator)
        await run_all(core, prompts(3), out)
        emulator.fail_next("504")
        await run_all(core, prompts(4), out)
        settled = await settle(core, out, log="newapi", horizon=0.001)
        posts = emulator.ledger.total.posts
        await run_all(core, prompts(4), out)
        await core.aclose()

    assert [item.charge for item in settled.items] == [Charge.MAYBE]
    assert emulator.ledger.total.posts == posts


async def test_a_gateway_without_a_log_is_an_error_that_settles_nothing(tmp_path: Path) -> None:
    """One line says that there is none; the journal stays as it is."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator)
        emulator.fail_next("504")
        await run_all(core, prompts(1), out)
        with pytest.raises(CallLogError, match="No log of calls"):
            await settle(core, out)
        await core.aclose()

    with look(out) as journal:
        assert [item.state for item in journal.items()] == [State.UNKNOWN]


async def test_a_batch_of_another_gateway_is_refused(tmp_path: Path) -> None:
    """A log of another gateway would call everything free: it is not asked."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator, Emulator(draw="tiny") as other:
        core = core_on(emulator)
        await run_all(core, prompts(1), out)
        await core.aclose()
        async with AsyncImagen(base_url=other.base_url) as imagen:
            with pytest.raises(ConfigurationError, match="was begun with"):
                await imagen.settle(out)
            with pytest.raises(ConfigurationError, match="holds no batch"):
                await imagen.settle(tmp_path / "nothing")


def test_runs_and_blocking_clients_settle_too(tmp_path: Path) -> None:
    """Imagen.settle and run.settle ask the same log after the block."""
    out = tmp_path / "out"
    with (
        Emulator(draw="tiny", call_log="aimlapi") as emulator,
        Imagen(base_url=emulator.base_url, api_key="sk-1", allow_private=True) as imagen,
    ):
        with imagen.batch(["a", "b"], out=out) as run:
            list(run)
        emulator.fail_next("504")
        with imagen.batch(["a", "b", "c"], out=out) as run:
            list(run)
        dry = run.settle(dry_run=True)
        settled = imagen.settle(out)

    assert dry.items[0].prompt == settled.items[0].prompt == "c"
    assert settled.count(Charge.YES) == 1


@pytest.mark.parametrize("change", [{"api_key": "another"}, {"idempotency": False}])
async def test_a_log_that_cannot_know_a_send_calls_nothing_free(
    change: dict[str, Any], tmp_path: Path
) -> None:
    """What went out under another key, or without an id, is not missed in the log: it stays."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny", call_log="litellm") as emulator:
        options = {"base_url": emulator.base_url, "api_key": "k"}
        async with AsyncImagen(**options) as imagen:
            async with imagen.batch(prompts(3), out=out) as run:
                await run.wait()
            emulator.fail_next("504")
            async with (
                AsyncImagen(**(options | change)) as other,
                other.batch(prompts(4), out=out) as run,
            ):
                await run.wait()
            settled = await imagen.settle(out, log="litellm", horizon=0.001)
            async with imagen.batch(prompts(4), out=out) as run:
                await run.wait()

    assert not settled.count(Charge.NO)
    assert emulator.ledger["prompt 3"].charged == emulator.ledger["prompt 3"].posts == 1


@pytest.mark.parametrize("log", ["newapi", "aimlapi", "litellm"])
async def test_an_order_of_another_folder_is_never_free(log: str, tmp_path: Path) -> None:
    """What a list of another folder has in doubt was sent at a time, and to whom, nobody knows."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with (
        Emulator(draw="tiny", call_log=log) as other,
        Emulator(draw="tiny", call_log=log) as emulator,
    ):
        there, core = core_on(other), core_on(emulator)
        other.fail_next("504")
        await run_all(there, prompts(1), first)
        emulator.fail_next("accept_then_close")
        await run_all(core, read_source(first / "unknown.jsonl"), second, on_unknown="resend")
        await run_all(core, prompts(5), second)
        settled = await settle(core, second, log=log, horizon=0.001)
        await run_all(core, prompts(5), second)
        await there.aclose()
        await core.aclose()

    assert [item.charge for item in settled.items] == [Charge.MAYBE]
    assert (other.ledger["prompt 0"].charged, emulator.ledger["prompt 0"].charged) == (1, 0)


@pytest.mark.parametrize("log", ["newapi", "aimlapi"])
async def test_shards_are_settled_together(log: str, tmp_path: Path) -> None:
    """From the folder over them: one alone takes the others' charges for a stranger's."""
    async with (
        Emulator(draw="tiny", call_log=log) as emulator,
        AsyncImagen(base_url=emulator.base_url, api_key="k") as imagen,
    ):
        emulator.fail_next("504", prompt="prompt 3")
        for index in (0, 1):
            async with imagen.batch(prompts(8), out=tmp_path, shard=Shard(index, of=2)) as run:
                await run.wait()
        (charged,) = [each for each in tmp_path.glob("*/unknown.jsonl") if each.stat().st_size]
        alone = await imagen.settle(charged.parent, horizon=0.001, dry_run=True)
        settled = await imagen.settle(tmp_path, horizon=0.001)
        again = await imagen.settle(tmp_path, horizon=0.001)

    assert bool(alone.problem) is (log == "newapi")
    assert ("settle the folder over them" in alone.problem) is (log == "newapi")
    assert [(item.prompt, item.charge) for item in settled.items] == [("prompt 3", Charge.YES)]
    assert again.items == ()
    assert "ask its support" in json.loads(charged.read_text())["error"]["message"]
