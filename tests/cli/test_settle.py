"""``imagen-async settle``: a batch's doubts, by the gateway's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagen_async.emulator import Emulator


@pytest.fixture
def doubtful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli):
    """A gateway with a log, and a batch in ``shots`` of which one row may have been charged."""
    with Emulator(draw="tiny", call_log="aimlapi") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        (tmp_path / "in.txt").write_text("a fox\na hare\na crow\n")
        emulator.fail_next("504", prompt="a crow")
        ended = cli("batch", "in.txt", "--out", "shots", "--allow-private", "--concurrency", 1)
        assert ended.code == 3
        assert "ask the gateway's log: imagen-async settle shots" in ended.err
        yield emulator


def test_settle_says_what_was_charged_and_keeps_it(cli, doubtful: Emulator, tmp_path: Path) -> None:
    """It needs no URL, names the gateway's id, and what is listed has it too."""
    ended = cli("settle", "shots")
    (row,) = map(json.loads, (tmp_path / "shots" / "unknown.jsonl").read_text().splitlines())

    assert ended.code == 0
    assert "1 settled as charged" in ended.err
    assert f'charged as {row["error"]["request_id"]}: "a crow"' in ended.err
    assert row["error"]["charge"] == "yes"


def test_a_dry_run_shows_each_item_and_why(cli, doubtful: Emulator, tmp_path: Path) -> None:
    """Nothing is kept, and --json has the same as values."""
    before = (tmp_path / "shots" / "unknown.jsonl").read_bytes()
    ended = cli("settle", "shots", "--dry-run", "--json")
    told = json.loads(ended.out)

    assert "1 would be settled as charged" in ended.err
    assert (told["log"], told["items"][0]["charge"]) == ("aimlapi", "yes")
    assert (tmp_path / "shots" / "unknown.jsonl").read_bytes() == before


def test_settle_of_a_folder_without_a_batch_says_so(cli) -> None:
    """One line, usage error, nothing made."""
    ended = cli("settle", "nowhere", "--base-url", "http://127.0.0.1:9/v1")

    assert ended.code == 2
    assert "holds no batch" in ended.err
    assert not Path("nowhere").exists()
