"""Shards on a real local Ray: killed workers, and the naive stage that pays twice."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from imagen_async import ConfigurationError, Limits
from imagen_async.batch.status import batch_status
from imagen_async.emulator import Emulator
from imagen_async.integrations.ray import ClientConfig, Progress, run_shards
from tests.batch.runs import view

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
CONCURRENCY = 4
# Ray leaves sockets and files to the collector.
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray of two workers, which import this copy of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("TEAM_KEY", "sk-secret-canary")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A gateway that takes a moment, so that a kill meets requests under way."""
    with Emulator(draw="tiny", latency=0.15) as started:
        yield started


def write_prompts(folder: Path, number: int) -> Path:
    path = folder / "prompts.txt"
    path.write_text("".join(f"prompt {place}\n" for place in range(number)))
    return path


def processes() -> Iterator[tuple[int, str]]:
    """Yield the id and command line of every process; Ray names a worker by what it runs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue


def kill_worker(doing: str, seen: set[int]) -> None:
    """Kill one worker that runs something, as a node's death would."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process, words in processes():
            if f"ray::{doing}" in words and process not in seen and _is_ours(process):
                seen.add(process)
                os.kill(process, signal.SIGKILL)
                return
        time.sleep(0.01)
    raise AssertionError("no worker was found")


def _is_ours(process: int) -> bool:
    """Return whether a process is a descendant of this one."""
    while process > 1:
        if process == os.getpid():
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_the_configuration_travels_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """It survives a pickle, is small and names the key's variable alone; rates are divided."""
    monkeypatch.setenv("TEAM_KEY", "sk-secret-canary")
    config = ClientConfig(
        base_url="http://127.0.0.1:9/v1",
        api_key_env="TEAM_KEY",
        limits=Limits(concurrency=3, requests_per_minute=90),
    )
    text = pickle.dumps(config)
    assert pickle.loads(text) == config
    assert b"canary" not in text
    assert len(text) < 2000
    each = config.among(4).limits
    assert (each.concurrency, each.requests_per_minute) == (3, pytest.approx(22.5))
    assert 4 * (each.requests_per_minute or 0) <= 90
    with config.open() as imagen:
        assert "canary" not in repr(imagen)
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY is not set"):
        attrs.evolve(config, api_key_env="NO_SUCH_KEY").open()


def test_killed_workers_pay_nothing_twice(
    cluster: None, emulator: Emulator, tmp_path: Path
) -> None:
    """Workers are killed again and again; Ray runs their shards again, and no image is paid twice.

    What was under way at a kill is unknown, no more than the concurrency each time, and listed.
    """
    source, kills, seen = write_prompts(tmp_path, 240), 3, set[int]()

    def killer() -> None:
        for _ in range(kills):
            before = len(emulator.requests)
            while len(emulator.requests) < before + 2 * CONCURRENCY:
                time.sleep(0.01)
            kill_worker("_run_shard", seen)

    thread = threading.Thread(target=killer)
    thread.start()
    progress: list[Progress] = []
    status = run_shards(
        source,
        tmp_path / "out",
        shards=4,
        workers=2,
        client=ClientConfig(
            base_url=emulator.base_url,
            api_key_env="TEAM_KEY",
            limits=Limits(concurrency=CONCURRENCY),
        ),
        on_progress=progress.append,
    )
    thread.join()
    emulator.assert_charged_once()
    report = status.report
    assert len(seen) == kills
    assert status.phases("ended") == [folder.name for folder in status.folders]
    assert report.done + report.unknown == 240
    assert 0 < report.unknown <= kills * CONCURRENCY
    listed = [
        row for folder in status.folders for row in view(tmp_path / "out" / folder.name, "unknown")
    ]
    assert len(listed) == report.unknown
    assert [each.ended for each in progress] == [1, 2, 3, 4]
    last = progress[-1]
    assert (last.done, last.unknown) == (report.done, report.unknown)


def test_a_killed_worker_that_resends_is_not_run_again(
    cluster: None, emulator: Emulator, tmp_path: Path
) -> None:
    """What was under way at the kill is not sent again with what was to be resent."""
    source, seen = write_prompts(tmp_path, 60), set[int]()
    config = ClientConfig(base_url=emulator.base_url, limits=Limits(concurrency=CONCURRENCY))

    def killer() -> None:
        while len(emulator.requests) < 12:
            time.sleep(0.01)
        kill_worker("_run_shard", seen)

    thread = threading.Thread(target=killer)
    thread.start()
    status = run_shards(
        source, tmp_path / "out", shards=1, client=config, on_unknown="resend", max_retries=9
    )
    thread.join()
    emulator.assert_charged_once()
    assert status.phases("cut off") == ["shard-0000-of-0001"]
    report = status.report
    # What was answered has left its slot to another, and only its file is missing.
    assert 0 < report.unknown <= CONCURRENCY + report.received


def test_an_interrupted_driver_lets_workers_finish(
    cluster: None, emulator: Emulator, tmp_path: Path
) -> None:
    """Ctrl-C on the driver stops the workers, and what was in flight is finished and kept."""
    source = write_prompts(tmp_path, 200)
    config = ClientConfig(base_url=emulator.base_url, limits=Limits(concurrency=CONCURRENCY))

    def interrupt() -> None:
        while len(emulator.requests) < 12:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_shards(source, tmp_path / "out", shards=4, workers=2, client=config)
    thread.join()
    report = batch_status(tmp_path / "out").report
    assert report.unknown == 0
    assert report.done == len(emulator.requests) < 200


def test_another_number_of_shards_is_refused_before_any_task(
    cluster: None, emulator: Emulator, tmp_path: Path
) -> None:
    """A second call goes on, and one with other shards is refused on the driver."""
    source, out = write_prompts(tmp_path, 12), tmp_path / "out"
    config = ClientConfig(base_url=emulator.base_url)
    for _ in range(2):
        assert run_shards(source, out, shards=2, client=config).report.done == 12
    assert len(emulator.requests) == 12
    with pytest.raises(ConfigurationError, match="number of shards was 2 and is 3"):
        run_shards(source, out, shards=3, client=config)
    assert len(emulator.requests) == 12


def test_an_error_of_ours_is_not_retried(cluster: None, emulator: Emulator, tmp_path: Path) -> None:
    """A node without the key fails its task once, and the caller gets that error."""
    source = write_prompts(tmp_path, 12)
    config = ClientConfig(base_url=emulator.base_url, api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY is not set"):
        run_shards(source, tmp_path / "out", shards=4, client=config)
    assert emulator.requests == []


def test_a_naive_actor_pays_twice(cluster: None, emulator: Emulator, tmp_path: Path) -> None:
    """What shards are for: an actor that generates, under the retries Ray Data sets, pays twice."""

    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Naive:
        def generate(self, base_url: str, prompts: list[str]) -> int:
            from imagen_async import Imagen

            with Imagen(base_url=base_url, api_key="") as imagen:
                return sum(outcome.ok for outcome in imagen.generate_many(prompts).__enter__())

    prompts = [f"prompt {place}" for place in range(60)]
    work = Naive.remote().generate.remote(emulator.base_url, prompts)
    while len(emulator.requests) < 30:
        time.sleep(0.01)
    kill_worker("Naive.generate", set())
    assert ray.get(work) == 60
    twice = [prompt for prompt, account in emulator.ledger.items() if account.charged > 1]
    assert twice
