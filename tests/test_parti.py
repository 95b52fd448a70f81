"""A real list of prompts, from the first to the last, through a batch."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from imagen_async.emulator import Emulator

ROOT = Path(__file__).parents[1]
PROMPTS = ROOT.parent / "shared" / "data" / "PartiPrompts.tsv"
MIB = 1024 * 1024


@pytest.mark.skipif(not PROMPTS.exists(), reason="the list of prompts is not here")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_every_prompt_of_a_real_list_is_one_image_bought_once(tmp_path: Path) -> None:
    """1,632 prompts give as many files and charges, and memory does not grow with them."""
    out = tmp_path / "out"
    async with Emulator(draw="tiny") as emulator:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.parti_client", emulator.base_url, PROMPTS, out),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        accounts = dict(emulator.ledger.items())
    told = json.loads(output)
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()[1:]
    prompts = Counter(line.partition("\t")[0] for line in lines)
    assert (told["done"], told["images"]) == (1632, 1632) == (len(lines),) * 2
    for prompt, account in accounts.items():
        assert account.posts == account.charged == prompts[prompt], prompt
    assert sum(account.charged for account in accounts.values()) == len(lines)

    listed = [json.loads(line) for line in (out / "metadata.jsonl").read_bytes().splitlines()]
    files = [path for path in (out / "images").rglob("*") if path.is_file()]
    assert sorted(out / row["file_name"] for row in listed) == sorted(files)
    assert len(files) == 1632
    assert len({path.name.casefold() for path in files}) == 1632
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)

    first, second = told["held"][1:5], told["held"][5:]
    assert max(second) - max(first) < 4 * MIB, told["held"]
