"""The README is true: each of its blocks runs when it is pasted alone, and does what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import imagen_async
from imagen_async.emulator import Emulator

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SAMPLE = Path("imagen_async/cli/prompts/sample.txt")
BLOCKS = re.findall(r"(?ms)^```(bash|python)\n(.*?)^```", README.read_text("utf-8"))
LEAVES = {
    "python3 -m venv .venv && .venv/bin/pip install -q '.[cli]'": "shots/index.html",
    "export IMAGEN_BASE_URL=": "shots-gateway/index.html",
    "generate_to(": "shots-python/*.png",
    "rows = [": "shots-rows/images/*/*.png",
    "prompts.csv": "shots-csv/export/webdataset/*.tar",
}
"""What a block with these words leaves in its folder."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Emulator]:
    """What ``serve`` is, and a gateway as well."""
    with Emulator(draw="tiny") as emulator:
        yield emulator


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a clone has it, whose installation is the package that is tested."""
    (tmp_path / SAMPLE.parent).mkdir(parents=True)
    shutil.copy(Path(imagen_async.__file__).parents[1] / SAMPLE, tmp_path / SAMPLE)
    programs = {
        "bin/python3": "exit",
        ".venv/bin/pip": "exit",
        ".venv/bin/imagen-async": f'exec "{sys.executable}" -m imagen_async "$@"',
    }
    for name, line in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    for name in ("IMAGEN_BASE_URL", "IMAGEN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("language", "block"),
    [
        pytest.param(*block, id=block[1].strip().splitlines()[-1][-40:])
        for block in BLOCKS
        if not re.search("pytest|serve$", block[1].strip())
    ],
)
def test_each_block_runs_alone(
    language: str, block: str, clone: Path, gateway: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a fresh clone, with nothing of another block but the server that one starts."""
    for url in ("http://127.0.0.1:8080/v1", "https://gateway.example/v1"):
        block = block.replace(url, gateway.base_url)
    if language == "python":
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True, timeout=60)

    leaves = [pattern for words, pattern in LEAVES.items() if words in block]
    assert all(any(clone.glob(pattern)) for pattern in leaves)


def test_every_file_that_a_block_is_to_leave_is_looked_for() -> None:
    """No block changed its words so that nothing is looked for any more."""
    texts = [block for _, block in BLOCKS]

    assert all(sum(words in text for text in texts) == 1 for words in LEAVES)


def test_the_blocks_for_python_ask_the_server_that_the_readme_starts(clone: Path) -> None:
    """``serve`` as it is typed listens where the blocks look for it."""
    [block] = [block for _, block in BLOCKS if block.strip().endswith("serve")]
    words = f"exec {block.strip()} --port 0"
    with subprocess.Popen(["bash", "-c", words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        server.send_signal(signal.SIGINT)
    asked = {url for _, text in BLOCKS for url in re.findall(r"http://127[.:/\w]+", text)}

    assert re.sub(r":\d+/", ":8080/", said.strip()) in asked
    assert len(asked) == 1


def test_the_marked_commands_stay_as_they_are() -> None:
    """What tries the README finds its two commands by the marks before them."""
    marked = dict(re.findall(r"<!-- (\w+) -->\n```bash\n(.*)\n```", README.read_text("utf-8")))

    assert marked.keys() == {"try", "tests"}
    assert marked["try"].endswith(f"imagen-async batch {SAMPLE} --out shots --emulator")
    assert marked["tests"].endswith("-m pytest -q -n auto")


def test_version_is_the_newest_of_the_changelog() -> None:
    """The package and the changelog name one version, and the metadata takes the package's."""
    newest = re.search(r"^## \[([0-9.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert imagen_async.__version__ == newest[1]
    assert version("imagen-async") == newest[1]


def test_pictures_of_the_readme_are_there() -> None:
    """Every picture that the README shows is in the repository."""
    if not (ROOT / "docs").is_dir():
        pytest.skip("only the sources have docs/")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.read_text())

    assert pictures
    assert [name for name in pictures if not (ROOT / name).is_file()] == []
