"""A batch in shards: each row in one of them, the whole's bounds kept, and two workers agree."""

from __future__ import annotations

import functools
import json
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async import AsyncImagen, Imagen, Shard, read_source
from imagen_async.batch import schema
from imagen_async.batch.defaults import make_defaults
from imagen_async.batch.identity import DuplicateCounter, body_digest
from imagen_async.batch.intake import InputRow, RowClassifier, RunOptions
from imagen_async.batch.journal import look
from imagen_async.batch.recovery import KnownItems, Terms
from imagen_async.batch.shard_root import claim_root, read_root
from imagen_async.batch.shard_run import ShardRun
from imagen_async.batch.shards import all_shards, share_of_rate
from imagen_async.batch.source import Source
from imagen_async.batch.status import batch_status
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import core_on, images, run_all, view

NO_NUMBERS = ("0", "-1", "true", "2.5", "1e400", "null", "65537")
PROMPTS = st.lists(st.text("abc ", min_size=1, max_size=3).filter(str.strip), max_size=30)


def client_on(emulator: Emulator, **settings: Any) -> AsyncImagen:
    return AsyncImagen(base_url=emulator.base_url, api_key="sk-secret-canary", **settings)


def ids_of(requests: list[Any], options: RunOptions) -> list[bytes]:
    classifier = RowClassifier(KnownItems(), options, make_defaults("imagen4", {}))
    return [row.id for row in classifier.rows(requests) if isinstance(row, InputRow)]


@settings(deadline=None)
@given(PROMPTS, st.integers(1, 7))
async def test_the_shards_ids_are_those_of_one_run(prompts: list[str], of: int) -> None:
    """Each item of a plain run is in exactly one shard, and equal rows are in the same."""
    whole = ids_of(prompts, RunOptions())
    parts = [ids_of(prompts, RunOptions(shard=shard)) for shard in all_shards(of)]

    assert sorted(functools.reduce(operator.iadd, parts, [])) == sorted(whole)
    defaults, homes = make_defaults("imagen4", {}), {}
    for place, part in enumerate(parts):
        for prompt in prompts:
            digest = body_digest(GenerationRequest(prompt), defaults)
            if DuplicateCounter().enter(digest) in part:
                assert homes.setdefault(digest, place) == place


@given(st.integers(0, 10_000), st.integers(1, 300), st.floats(0.001, 1e9))
def test_the_shares_never_add_up_to_more(images: int, of: int, rate: float) -> None:
    """Shares of images add up to all of them, and rates to no more than the rate."""
    shards = list(all_shards(of, first=images))
    assert sorted(shard.index for shard in shards) == list(range(of))
    parts = [shard.part(images) for shard in shards]
    assert sum(parts) == images
    assert max(parts) - min(parts) <= 1
    assert of * Fraction(share_of_rate(rate, of)) <= Fraction(rate)
    assert share_of_rate(rate, of) * of >= rate * 0.999999


@pytest.mark.parametrize("index", [-1, 4, True, 1.0, "1"])
def test_a_shard_that_is_none(index: Any) -> None:
    """An index beyond the number, or no whole number, is refused in words."""
    with pytest.raises(ConfigurationError, match="from 0 to 3"):
        Shard(index, of=4)


async def test_rows_without_a_request_are_listed_once(tmp_path: Path, core: Any) -> None:
    """A malformed row is listed by one shard alone, and one that repeats an id too."""
    source = tmp_path / "rows.jsonl"
    rows = ['{"prompt": "a", "id": "x"}', "{", '{"prompt": "b", "id": "x"}', "7", '"c"']
    source.write_text("\n".join(rows))
    failed = []
    for shard in all_shards(3):
        await run_all(core, read_source(source), tmp_path / shard.name, shard=shard)
        failed += view(tmp_path / shard.name, "failed")
    assert sorted(row["line"] for row in failed) == [2, 3, 4]


async def test_a_batch_in_shards(tmp_path: Path, emulator: Emulator) -> None:
    """Both clients run shards of one batch; each prompt is bought once, whoever runs again."""
    source, out = tmp_path / "prompts.txt", tmp_path / "out"
    source.write_text("".join(f"prompt {number}\n" for number in range(40)))
    for _ in range(2):
        async with client_on(emulator) as imagen:
            for index in (0, 2):
                async with imagen.batch(
                    read_source(source), out=out, shard=Shard(index, of=3)
                ) as run:
                    assert all([each.ok async for each in run])
                assert run.folder == out / f"shard-{index:04}-of-0003"
                assert run.report.ok

        def blocking() -> None:
            with (
                Imagen(base_url=emulator.base_url, api_key="") as imagen,
                imagen.batch(read_source(source), out=out, shard=Shard(1, of=3)) as run,
            ):
                assert all(each.ok for each in run)

        thread = threading.Thread(target=blocking)
        thread.start()
        while thread.is_alive():
            await anyio.sleep(0.01)
    assert {account.posts for account in dict(emulator.ledger.items()).values()} == {1}
    assert len(emulator.ledger) == 40
    assert len(list(out.glob("shard-*/images/**/*.png"))) == 40
    kept = json.loads((out / "run.json").read_text())
    assert kept["shards"] == 3
    assert len(kept["input_sha256"]) == 64
    assert (out / "run.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shard": Shard(0, of=4)}, "number of shards was 2 and is 4"),
        ({"model": "other"}, "model was 'imagen4' and is 'other'"),
        ({"defaults": {"n": 2}}, "n was not set and is 2"),
        ({"text": "another\n"}, "the input is not the file that it was"),
        ({"column": "text"}, "prompt_column was prompt and is text"),
        ({"emulator": True}, "and is emulator"),
    ],
)
@pytest.mark.parametrize("plan", [False, True])
async def test_another_number_input_or_option_is_refused(
    tmp_path: Path, emulator: Emulator, change: dict[str, Any], words: str, plan: bool
) -> None:
    """What the first shard was begun with holds for all; nothing is sent otherwise."""
    source, out = tmp_path / "prompts.txt", tmp_path / "out"
    source.write_text("one\ntwo\nthree\n")
    async with client_on(emulator, model="imagen4") as imagen:
        run = imagen.batch(read_source(source), out=out, shard=Shard(0, of=2))
        async with run:
            assert all([each.ok async for each in run])
    sent = len(emulator.ledger)
    options = {"shard": Shard(1, of=2), **change}
    source.write_text(options.pop("text", source.read_text()))
    model, column = options.pop("model", "imagen4"), options.pop("column", "prompt")
    async with client_on(emulator, model=model) as imagen:
        run = imagen.batch(read_source(source, prompt_column=column), out=out, **options)
        begin = run.plan if plan else run.__aenter__
        with pytest.raises(ConfigurationError, match=words):
            await begin()
    assert len(emulator.ledger) == sent
    assert [path.name for path in sorted(out.glob("shard-*"))] == ["shard-0000-of-0002"]


async def test_values_that_are_no_file_have_no_digest(tmp_path: Path, core: Any) -> None:
    """Of a list no digest is kept, and then inputs are not compared; rows still hold together."""
    terms = Terms(endpoint="http://e/v1")
    claim_root(tmp_path / "out", Shard(0, of=2), terms)
    begun = read_root(tmp_path / "out")
    assert begun is not None
    assert begun.sha256 is None
    claim_root(tmp_path / "out", Shard(0, of=2, source=Source(__file__)), terms)


def claim_at_once(root: Path, of: int, barrier: threading.Barrier) -> int | None:
    """Return the number of shards if it was refused."""
    barrier.wait()
    try:
        claim_root(root, Shard(0, of=of), Terms(endpoint="http://e/v1"))
    except ConfigurationError:
        return of
    return None


def test_workers_that_begin_at_once_agree(tmp_path: Path) -> None:
    """Of workers with different numbers of shards one number wins, and the others are refused."""
    for attempt in range(20):
        root, barrier = tmp_path / str(attempt), threading.Barrier(6)
        with ThreadPoolExecutor(6) as pool:
            claims = [pool.submit(claim_at_once, root, 2 + each % 2, barrier) for each in range(6)]
        refused = [number for claim in claims if (number := claim.result())]
        begun = read_root(root)
        assert begun is not None
        assert sorted(refused) == [5 - begun.shards] * 3
        assert [path.name for path in root.iterdir()] == ["run.json"]


async def test_folders_of_other_kinds_are_refused(tmp_path: Path, core: Any) -> None:
    """A plain batch does not go on in shards, nor shards as a plain one; a lost note is missed."""
    plain, other, lost = tmp_path / "plain", tmp_path / "other", tmp_path / "lost"
    await run_all(core, ["a"], plain)
    terms, shard = Terms(endpoint="http://e/v1"), Shard(0, of=2)
    with pytest.raises(ConfigurationError, match="without shards"):
        claim_root(plain, shard, terms)
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(ConfigurationError, match="not empty"):
        claim_root(other, shard, terms)
    claim_root(lost, shard, terms)
    (lost / shard.name).mkdir()
    with pytest.raises(ConfigurationError, match="--shards N"):
        await run_all(core, ["a"], lost)
    (lost / "run.json").unlink()
    with pytest.raises(ConfigurationError, match="restore it"):
        claim_root(lost, shard, terms)
    other_file = tmp_path / "file"
    other_file.touch()
    with pytest.raises(ConfigurationError, match="choose another folder"):
        claim_root(other_file / "out", shard, terms)
    for kept in ("{", "[]", "[" * 100_000, *(f'{{"shards": {n}}}' for n in NO_NUMBERS)):
        (lost / "run.json").write_text(kept)
        for look_at in (partial(claim_root, lost, shard, terms), partial(batch_status, lost)):
            with pytest.raises(ConfigurationError, match="cannot be read"):
                look_at()
    with pytest.raises(ConfigurationError, match="from 1 to 65,536 shards"):
        Shard(0, of=65_537)


async def test_a_shard_takes_no_new_options(tmp_path: Path) -> None:
    """Other options would move rows to other shards, where nobody knows that they were bought."""
    with pytest.raises(ConfigurationError, match="new_options"):
        RunOptions(new_options=True, shard=Shard(0, of=2))
    with pytest.raises(ConfigurationError, match="limit"):
        RunOptions(limit=3, shard=Shard(0, of=2))


async def test_a_budget_is_divided(tmp_path: Path, emulator: Emulator) -> None:
    """All shards together buy no more than the budget, and each tells its share."""
    prompts = [f"prompt {number}" for number in range(60)]
    core, spent, shares = core_on(emulator, concurrency=8), 0, 0
    for shard in all_shards(4):
        out = tmp_path / shard.name
        options = RunOptions(
            shard=shard, price_per_image=0.1, budget=3.0, gallery=False, emulator=True
        )
        async with ShardRun(core, prompts, tmp_path, options, shard) as run:
            assert all([each.ok async for each in run])
        assert run.report.share is not None
        assert run.report.spent <= run.report.share
        assert json.loads((out / "report.json").read_text())["share"] == run.report.share
        spent += run.report.spent
        shares += run.report.share
    await core.aclose()
    assert shares == 30
    assert sum(account.charged for account in dict(emulator.ledger.items()).values()) == spent <= 30


async def test_two_workers_on_one_shard(tmp_path: Path, emulator: Emulator) -> None:
    """The second is refused while the first runs, and nothing of its own is sent."""
    async with client_on(emulator) as imagen:
        first = imagen.batch(["a", "b"], out=tmp_path / "out", shard=Shard(0, of=1))
        async with first:
            with pytest.raises(schema.HeldJournalError, match="another process"):
                await imagen.batch(
                    ["a", "b"], out=tmp_path / "out", shard=Shard(0, of=1)
                ).__aenter__()
            assert all([each.ok async for each in first])
    assert {account.posts for account in dict(emulator.ledger.items()).values()} == {1}
    with look(tmp_path / "out" / "shard-0000-of-0001") as journal:
        assert sum(count.items for count in journal.counts()) == 2
    assert len(images(tmp_path / "out" / "shard-0000-of-0001")) == 2
