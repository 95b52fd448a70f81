"""The files that people copy for an engine: each runs, or holds what its engine reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagen_async.batch.status import batch_status
from imagen_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROWS = 200


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A folder with prompts.jsonl, the command on the path, and a gateway in the environment."""
    if not DOCS.is_dir():
        pytest.skip("only the sources have docs/")
    command = tmp_path / "bin" / "imagen-async"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imagen_async "$@"\n')
    command.chmod(0o700)
    (tmp_path / "prompts.jsonl").write_text(
        "".join(f'{{"prompt": "fox {number}"}}\n' for number in range(ROWS))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("IMAGEN_API_KEY", "sk-canary")
    with Emulator(draw="tiny") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        yield emulator


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_slurm(place: Emulator) -> None:
    """Each task of the array runs its shard, and a task that is requeued buys nothing again."""
    text = (DOCS / "slurm.sh").read_text()
    first, last = map(int, re.findall(r"--array=(\d+)-(\d+)", text)[0])
    (shards,) = map(int, re.findall(r"--shards (\d+)", text))
    assert (first, last) == (0, shards - 1)
    for index in (0, last, last):
        script = ["bash", str(DOCS / "slurm.sh")]
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index)}
        subprocess.run(script, env=environment, check=True, capture_output=True)
    status = batch_status(Path("images"))
    assert status.phases("ended") == ["shard-0000-of-0064", "shard-0063-of-0064"]
    assert len(place.requests) == status.report.done > 0
    place.assert_charged_once()


def test_kubernetes() -> None:
    """The job is an indexed one of the number of shards, and its exit codes are ours."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((DOCS / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert set(spec) == {
        *("completionMode", "completions", "parallelism", "backoffLimitPerIndex"),
        *("podFailurePolicy", "template"),
    }
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a failure policy asks for it
    (container,) = pod["containers"]
    (words,) = container["args"]
    assert f"--shards {spec['completions']} " in words
    assert '--shard "$JOB_COMPLETION_INDEX"' in words
    for rule in spec["podFailurePolicy"]["rules"]:
        assert rule["action"] in {"FailJob", "FailIndex", "Ignore"}
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            assert set(rule["onExitCodes"]["values"]) <= {2, 3, 4}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    (key,) = [each for each in container["env"] if each["name"] == "IMAGEN_API_KEY"]
    assert "value" not in key


def test_kubernetes_takes_the_job() -> None:
    """The published schema of the release that the file names has all fields of the job."""
    schemas = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    text = (DOCS / "kubernetes.yaml").read_text()
    (release,) = re.findall(r"needs Kubernetes ([\d.]+)", text)
    assert schemas.validate(yaml.safe_load(text), release, strict=True) == release
    wrong = yaml.safe_load(text.replace("backoffLimitPerIndex", "backoffLimitsPerIndex"))
    with pytest.raises(schemas.ValidationError, match="backoffLimitsPerIndex"):
        schemas.validate(wrong, release, strict=True)


@pytest.mark.timeout(200)
def test_ray(place: Emulator) -> None:
    """The program runs a batch to its end, and its lists are there."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, str(DOCS / "run_on_ray.py")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"done={ROWS}" in done.stdout
    assert len(Path("images/metadata.jsonl").read_text().splitlines()) == ROWS
    assert "sk-canary" not in done.stdout + done.stderr
    place.assert_charged_once()
