"""What gateways say that answers cost, in a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagen_async.emulator import Emulator
from tests.batch.runs import b64, core_on, run_all


@pytest.mark.parametrize("dialect", ["aimlapi", "litellm", "xai", "openrouter"])
async def test_reported_costs_add_up_to_the_gateways_own(dialect: str, tmp_path: Path) -> None:
    """The report's cost is the sum of what each answer told, also over two runs."""
    async with Emulator(draw="tiny", report_cost=dialect, price=0.0137) as emulator:
        core = core_on(emulator, allow_private=True)
        await run_all(core, ["a", *b64("b")], tmp_path / "out")
        _, report = await run_all(core, ["a", *b64("b", "c")], tmp_path / "out")
        await core.aclose()

    assert report.cost == pytest.approx(emulator.ledger.total.charged * 0.0137, abs=1e-9)


async def test_a_budget_goes_by_the_cost_that_is_told(tmp_path: Path) -> None:
    """Images that cost half of the price leave room for more, and none is sent past the budget."""
    async with Emulator(draw="tiny", report_cost="aimlapi", price=0.02) as emulator:
        core = core_on(emulator, concurrency=1)
        _, report = await run_all(
            core, b64(*"abcdefghij"), tmp_path / "out", price_per_image=0.04, budget=0.1
        )
        await core.aclose()

    assert report.stopped_by == "budget"
    assert (report.done, report.cost) == (4, pytest.approx(0.08))


async def test_a_cost_in_another_unit_stops_nothing(tmp_path: Path) -> None:
    """What no image costs is not counted, and the journal's sum stays within its bounds."""
    async with Emulator(draw="tiny", report_cost="aimlapi", price=999_999_999.0) as emulator:
        core = core_on(emulator)
        _, report = await run_all(core, b64(*"abc"), tmp_path / "out")
        await core.aclose()

    assert (report.done, report.problem, report.cost) == (3, None, None)
