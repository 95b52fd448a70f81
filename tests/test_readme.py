"""The README is true: its blocks run, and its commands are those that are tested."""

import asyncio
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import imagen_async
from imagen_async.emulator import Emulator

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each Python block of the README runs, in order, against the emulator, and does its work."""
    document = Sybil(parsers=[PythonCodeBlockParser()], pattern="*.md").parse(README)
    monkeypatch.chdir(tmp_path)
    with Emulator() as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        for example in document.examples():
            example.evaluate()
        asyncio.run(document.namespace["batch"](["A fox", "A crow"]))
        asyncio.run(document.namespace["test_a_lost_answer_is_not_bought_twice"]())

    printed = capsys.readouterr().out
    assert len(list(tmp_path.glob("shots/*.png"))) == 1
    assert len(list(tmp_path.glob("shots-batch/images/*/*.png"))) == 2
    assert (tmp_path / "lighthouse.png").exists()
    assert "done=2" in printed
    assert re.search(r"^maybe [0-9a-f-]{36}$", printed, re.MULTILINE)


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
