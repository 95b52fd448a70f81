"""The fixtures that users load, in a project of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imagen_async

PROJECT = {
    "conftest.py": 'pytest_plugins = ["imagen_async.testing"]\n',
    "pytest.ini": """
[pytest]
asyncio_mode = strict
asyncio_default_fixture_loop_scope = function
filterwarnings = error
""",
    "test_1_idle.py": """
import sys

def test_nothing_runs_by_itself():
    assert "aiohttp" not in sys.modules
    assert "PIL" not in sys.modules
""",
    "test_2_sync.py": """
import json, urllib.error, urllib.request
import pytest

def post(emulator):
    request = urllib.request.Request(
        f"{emulator.base_url}/images/generations",
        json.dumps({"prompt": "A cat"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)

def test_plain_function(imagen_emulator):
    assert post(imagen_emulator)["data"]
    imagen_emulator.fail_next("500")
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(imagen_emulator)
    caught.value.close()
    imagen_emulator.assert_charged_once("A cat")

def test_emulator_of_its_own(imagen_emulator):
    assert len(imagen_emulator.ledger) == 0
""",
    "test_3_async.py": """
import pytest

@pytest.mark.asyncio
async def test_pytest_asyncio(imagen_client, imagen_emulator):
    async with imagen_client as imagen:
        generation = await imagen.generate("A cat")
        data = await imagen.read(generation.images[0])
    assert data.startswith(b"\\x89PNG")
    imagen_emulator.assert_charged_once("A cat")

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(imagen_client, imagen_emulator, anyio_backend):
    generation = await imagen_client.generate("A cat")
    assert len(generation.images) == 1
    imagen_emulator.assert_charged_once("A cat")
""",
    "test_4_mocked.py": """
import pytest
from imagen_async.testing import patch_aioresponses

@pytest.mark.asyncio
async def test_aioresponses():
    import aiohttp
    from aioresponses import aioresponses
    patch_aioresponses()
    with aioresponses() as mocked:
        mocked.post("http://gateway.invalid/v1", payload={"data": []})
        async with aiohttp.ClientSession() as session:
            async with session.post("http://gateway.invalid/v1") as reply:
                assert await reply.json() == {"data": []}
""",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each test of the project, and all that was printed."""
    root = tmp_path_factory.mktemp("project")
    for name, text in PROJECT.items():
        (root / name).write_text(text)
    package = str(Path(imagen_async.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"::(test_\w+)\S* (PASSED|FAILED|ERROR)", done.stdout)
    return dict(found), done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "test_nothing_runs_by_itself",
        "test_plain_function",
        "test_emulator_of_its_own",
        "test_pytest_asyncio",
        "test_anyio",
        "test_aioresponses",
    ],
)
def test_fixtures_serve_every_style_of_test(outcomes, name):
    """Idle, sync, pytest-asyncio, AnyIO and mocked tests each pass in a user's project."""
    found, printed = outcomes
    assert found.get(name) == "PASSED", printed
