"""batch --shards, status and merge: workers that share a batch, killed and seen from outside."""

import json
import signal
from pathlib import Path

import attrs
import pytest

from imagen_async.batch.journal import look
from imagen_async.batch.shards import all_shards
from imagen_async.batch.workers import worker_place
from imagen_async.cli.shards import ShardFlags
from imagen_async.emulator import Emulator
from tests.cli.processes import until


@pytest.fixture
def prompts():
    """An input of 40 rows."""
    Path("in.txt").write_text("".join(f"fox {number}\n" for number in range(40)))
    return "in.txt"


def test_one_worker_takes_every_shard(cli, gateway, prompts):
    """Without --shard a worker runs all that are free; a second run finds nothing to send."""
    words = ("batch", prompts, "--out", "shots", "--shards", "4")
    ended = cli(*words)
    assert ended.code == 0
    assert "shots: 4 shards, 4 ended; 40 done (40 images), 0 failed, 0 in doubt" in ended.err
    assert sorted(Path(line).parent.name for line in ended.lines) == [
        shard.name for shard in all_shards(4)
    ]
    again = cli(*words)
    assert (again.code, again.out) == (0, "")
    assert len(gateway.requests) == 40
    gateway.assert_charged_once()


def test_status_and_merge(cli, gateway, prompts):
    """One shard at a time; status tells what is left, and merge lists all of it."""
    words = ("batch", prompts, "--out", "shots", "--shards", "2", "--price-per-image", "0.5")
    assert cli(*words, "--shard", "1").code == 0
    ended = cli("status", "shots")
    assert ended.code == 0
    assert ended.lines[0].startswith("shard-0000-of-0002  not begun")
    assert "taken up by the same command: shard-0000-of-0002." in ended.lines[2]
    assert cli("merge", "shots").code == 3
    assert cli(*words, "--shard", "0").code == 0
    merged = cli("merge", "shots")
    assert (merged.code, merged.lines) == (0, ["shots/index.html"])
    told = json.loads(cli("merge", "shots", "--json").out)
    assert (told["done"], told["cost"], told["out"]) == (40, 20.0, "shots")
    assert told | json.loads(cli("status", "shots", "--json").out) == told
    rows = Path("shots/metadata.jsonl").read_text().splitlines()
    assert all(Path("shots", json.loads(row)["file_name"]).exists() for row in rows)
    assert cli("gallery", "shots").lines == ["shots/index.html"]
    plain = cli("status", "shots/shard-0000-of-0002")
    assert len(plain.lines) == 1
    assert "ended;" in plain.out
    assert len(gateway.requests) == 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["in.txt", "--shard", "0"], "--shards"),
        (["in.txt", "--workers", "2"], "--shards"),
        (["-", "--shards", "2"], "give a file"),
        (["in.txt", "--shards", "2", "--dry-run"], "--shard"),
        (["in.txt", "--shards", "2", "--shard", "2"], "from 0 to 1"),
        (["in.txt", "--shards", "2", "--limit", "1"], "limit"),
        (["in.txt", "--shards", "2", "--new-options"], "new"),
        (["in.txt", "--shards", "0"], "--shards"),
    ],
)
def test_wrong_usage_makes_nothing(cli, gateway, prompts, arguments, says):
    """Flags that cannot work together are one line and 2; no folder is begun."""
    ended = cli("batch", *arguments, "--out", "shots")
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert gateway.requests == []
    assert not Path("shots").exists()


def test_another_way_to_run_it_is_refused(cli, gateway, prompts):
    """Once all is done, another number of shards, model or input is still told, and not bought."""
    words = ("batch", prompts, "--out", "shots", "--shards", "2")
    assert cli(*words).code == 0
    sent = len(gateway.requests)
    for change in (("--shards", "3"), ("--model", "other"), ("--shard", "1", "-n", "2")):
        ended = cli(*words, *change)
        assert ended.code == 2
        assert "begun otherwise" in ended.err
    assert cli("batch", prompts, "--out", "shots").code == 2
    Path(prompts).write_text("another\n")
    assert "not the file that it was" in cli(*words).err
    assert len(gateway.requests) == sent


def test_what_stops_one_shard_stops_the_worker(cli, gateway, prompts):
    """Without quota the other shards are not tried; a budget ends each on its own."""
    words = ("batch", prompts, "--out", "shots", "--shards", "4", "--concurrency", "1")
    gateway.fail("402")
    assert cli(*words).code == 3
    assert len(gateway.requests) == 1
    gateway.reset()
    ended = cli(*words, "--price-per-image", "1", "--budget", "20")
    assert ended.code == 3
    assert 15 <= len(gateway.requests) <= 20
    assert "Left, and taken up by the same command" in ended.err


def test_a_dry_run_of_one_shard(cli, gateway, prompts):
    """The plans of all shards add up to the whole, and nothing is made."""
    words = ("batch", prompts, "--out", "shots", "--shards", "3", "--dry-run", "--json")
    plans = [json.loads(cli(*words, "--shard", str(index)).out) for index in range(3)]
    assert sum(plan["to_send"] for plan in plans) == 40
    assert not Path("shots").exists()


def test_the_rate_is_divided(prompts):
    """Each worker keeps to its share of --rpm: of as many as may run at once."""
    flags = ShardFlags(source=prompts, out="shots", shards=4, shard=1, rpm=60)
    assert flags.rate == pytest.approx(15)
    assert attrs.evolve(flags, workers=2).rate == pytest.approx(30)
    assert attrs.evolve(flags, workers=9).rate == pytest.approx(15)
    assert attrs.evolve(flags, rpm=None).rate is None
    assert ShardFlags(source=prompts, out="shots", rpm=60).rate == 60


def test_no_more_workers_than_the_rate_is_divided_by(cli, gateway, prompts, monkeypatch):
    """Where --rpm is divided, a worker too many waits and is refused, and so is another number."""
    monkeypatch.setattr("imagen_async.cli.shards.WAIT", 0.1)
    words = ("batch", prompts, "--out", "shots", "--shards", "4", "--rpm", "6e6")
    assert cli(*words, "--workers", "2", "--shard", "0").code == 0
    sent = len(gateway.requests)
    with worker_place(Path("shots"), 2):
        refused = cli(*words)
        assert refused.code == 2
        assert "another number than 4" in refused.err
        with worker_place(Path("shots"), 2):
            refused = cli(*words, "--workers", "2")
            assert refused.code == 2
            assert "2 workers run" in refused.err
        assert len(gateway.requests) == sent
        assert cli(*words, "--workers", "2").code == 0
    assert cli(*words).code == 0
    assert len(gateway.requests) == 40


def test_what_is_sent_again_is_sent_by_one_worker(cli, gateway, prompts):
    """Of workers that are to resend what is unknown one runs, and each item is sent once more."""
    words = ("batch", prompts, "--out", "shots", "--shards", "4")
    gateway.fail_next("504", times=3)
    assert cli(*words).code == 3
    again = (*words, "--on-unknown", "resend")
    with worker_place(Path("shots"), 1):
        refused = cli(*again)
        assert (refused.code, len(gateway.requests)) == (2, 40)
        assert "1 workers run" in refused.err
    assert cli(*again).code == 0
    assert len(gateway.requests) == 43


def test_a_shard_that_another_process_holds(cli, gateway, prompts, monkeypatch):
    """--shard is refused there; without it the worker runs the others, and says who runs it."""
    monkeypatch.setattr("imagen_async.cli.shards.PAUSE", 0.01)
    words = ("batch", prompts, "--out", "shots", "--shards", "2")
    assert cli(*words, "--shard", "1").code == 0
    sent = len(gateway.requests)
    with look(Path("shots/shard-0001-of-0002")):
        refused = cli(*words, "--shard", "1")
        assert refused.code == 2
        assert "another process runs this batch" in refused.err
        assert len(gateway.requests) == sent
        ended = cli(*words)
        assert ended.code == 3
        assert "Run by other processes: shard-0001-of-0002." in ended.err
        assert "1 running" in cli("status", "shots").out
    assert len(gateway.requests) == 40
    assert cli(*words).code == 0


def test_workers_share_a_batch_and_one_is_killed(spawn, cli, monkeypatch, prompts):
    """Three workers, one killed: the others take its shard up, and nothing is bought twice."""
    with Emulator(latency=0.05, draw="tiny") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        words = ("batch", prompts, "--out", "shots", "--shards", "6", "--concurrency", "2")
        workers = [spawn(*words) for _ in range(3)]
        until(lambda: len(emulator.requests) >= 6)
        seen = json.loads(cli("status", "shots", "--json").out)
        workers[0].signal(signal.SIGKILL)
        ended = [worker.end() for worker in workers]
        assert ended[0].code == -signal.SIGKILL
        assert seen["shards"] == 6
        last = cli(*words)
        emulator.assert_charged_once()
        told = json.loads(cli("merge", "shots", "--json").out)
    assert told["phases"] == {"ended": 6}
    assert told["done"] + told["unknown"] == 40
    assert told["unknown"] <= 2
    assert last.code == (3 if told["unknown"] else 0)
