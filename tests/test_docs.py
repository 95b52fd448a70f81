"""The guides in docs/ are true: every Python block runs, and every test in one passes."""

import inspect
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
async def test_blocks_run(name: str) -> None:
    """The blocks of a guide run in order, then the tests that they define."""
    document = Sybil(parsers=[PythonCodeBlockParser()], pattern="*.md").parse(DOCS / name)
    for example in document.examples():
        example.evaluate()

    tests = [each for key, each in document.namespace.items() if key.startswith("test_")]
    for test in tests:
        outcome = test()
        if inspect.isawaitable(outcome):
            await outcome
    assert len(tests) == (DOCS / name).read_text().count("def test_")
