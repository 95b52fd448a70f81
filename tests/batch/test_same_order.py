"""The same order given to the same folder again, in other words: what is bought a second time."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch.defaults import asked_anew, changes, make_defaults
from imagen_async.batch.identity import HALF, body_digest
from imagen_async.batch.prompts import read_source
from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError, InvalidRequestError
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import b64, run_all

PROMPTS = ("a fox", "un café noir", "a hare in snow")
ORDER = {"model": "imagen4-ultra", "n": 2, "response_format": "b64_json"}


def text(*prompts: str, end: str = "\n", begin: str = "") -> bytes:
    return (begin + "".join(f"{prompt}{end}" for prompt in prompts)).encode()


def objects(*rows: dict[str, Any]) -> bytes:
    return text(*(json.dumps(row) for row in rows))


def table(separator: str, *columns: str) -> bytes:
    rows = [[f"{number}", prompt, ""] for number, prompt in enumerate(PROMPTS)]
    lines = (dict(zip(("id", "prompt", "n"), row, strict=True)) for row in rows)
    return text(separator.join(columns), *(separator.join(map(row.get, columns)) for row in lines))


@attrs.frozen
class Form:
    """The same order once more: how it is written now, and with which defaults."""

    name: str = "in.txt"
    data: bytes = text(*PROMPTS)
    defaults: dict[str, Any] = ORDER
    first: tuple[str, bytes, dict[str, Any]] = ("in.txt", text(*PROMPTS), ORDER)


EXTRAS = [{"prompt": "a", "extra": extra} for extra in ({}, {"seed": 1, "style": {"x": 1, "y": 2}})]
BARE = {"response_format": "b64_json"}
FORMS = {
    "as it was": Form(),
    "lines end in CRLF": Form(data=text(*PROMPTS, end="\r\n")),
    "a BOM": Form(data=text(*PROMPTS, begin="\ufeff")),
    "letters decomposed": Form(data=unicodedata.normalize("NFD", text(*PROMPTS).decode()).encode()),
    "gzip": Form("in.txt.gz", gzip.compress(text(*PROMPTS))),
    "JSON lines": Form("in.jsonl", objects(*({"prompt": prompt} for prompt in PROMPTS))),
    "JSON lines, spaces within": Form(
        "in.jsonl", objects(*({"prompt": f" {prompt}\n"} for prompt in PROMPTS))
    ),
    "JSON lines that say it all": Form(
        "in.jsonl", objects(*({"prompt": prompt, **ORDER} for prompt in PROMPTS))
    ),
    "commas": Form("in.csv", table(",", "prompt")),
    "tabs, with ids and an empty column": Form("in.tsv", table("\t", "n", "id", "prompt")),
    "spaces at the ends": Form(data=text(*(f"  {prompt} \t" for prompt in PROMPTS))),
    "another order of rows": Form(data=text(*reversed(PROMPTS))),
    "empty lines": Form(data=text(*PROMPTS, end="\n\n \n")),
    "the other format": Form(defaults={**ORDER, "response_format": "url"}),
    "one image, said": Form(defaults={**BARE, "n": 1}, first=("in.txt", text(*PROMPTS), BARE)),
    "one image, said in the rows": Form(
        "in.jsonl",
        objects(*({"prompt": prompt, "n": 1} for prompt in PROMPTS)),
        BARE,
        first=("in.txt", text(*PROMPTS), BARE),
    ),
    "no extra": Form(defaults={**ORDER, "extra": {}}),
    "extra in another order": Form(
        "in.jsonl",
        objects(
            {"extra": {"style": {"y": 2, "x": 1}, "seed": 1}, "prompt": "a"},
            {"prompt": "a"},
        ),
        first=("first.jsonl", objects(*EXTRAS), ORDER),
    ),
    "the model forgotten": Form(defaults={"n": 2}),
    "the number forgotten": Form(defaults={"model": "imagen4-ultra"}),
    "another ratio": Form(defaults={**ORDER, "aspect_ratio": "16:9"}),
    "one more extra": Form(defaults={**ORDER, "extra": {"seed": 7}}),
    "a no-break space": Form(data=text(*PROMPTS).replace(b"a fox", "a\u00a0fox".encode())),
}
REFUSED = {"the model forgotten", "the number forgotten", "another ratio", "one more extra"}
EDITED = "a no-break space"


async def order(core: Any, folder: Path, out: Path, *given: Any, **options: Any) -> Any:
    """Give an order to a folder: the file's name, its bytes, the defaults."""
    name, data, defaults = given
    (folder / name).write_bytes(data)
    rows = read_source(folder / name)
    return await run_all(core, rows, out, defaults=defaults, **options)


@pytest.mark.parametrize("name", FORMS)
async def test_the_same_order_in_other_words_buys_nothing(
    emulator: Emulator, core: Any, tmp_path: Path, name: str
) -> None:
    """Of 23 forms none is bought again without a yes but an edited prompt, which the end tells."""
    form, out = FORMS[name], tmp_path / "out"
    _, first = await order(core, tmp_path, out, *form.first)
    bought = emulator.ledger.total.charged
    assert first.done == first.total == bought

    again = (core, tmp_path, out, form.name, form.data, form.defaults)
    if name in REFUSED:
        with pytest.raises(ConfigurationError, match=r"3 prompts that are done and 0 .* again"):
            await order(*again)
        assert emulator.ledger.total.charged == bought
        return
    _, report = await order(*again)
    assert emulator.ledger.total.charged - bought == (name == EDITED)
    assert report.bought_before == report.others == (name == EDITED)
    assert (report.done, report.total) == (first.done, first.total)


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_other_options_are_taken_on_a_yes(
    emulator: Emulator, core: Any, tmp_path: Path, name: str
) -> None:
    """With new_options they are bought, told in the end, and the new ones are those of the run."""
    form, out = FORMS[name], tmp_path / "out"
    await order(core, tmp_path, out, *form.first)
    again = (core, tmp_path, out, form.name, form.data, form.defaults)
    _, report = await order(*again, new_options=True)
    assert (report.done, report.total, report.others, report.bought_before) == (3, 3, 3, 3)

    _, report = await order(*again)
    assert (report.done, report.skipped, report.bought_before) == (3, 3, 0)
    # Nothing would be bought: what the first options asked for is here as well.
    await order(core, tmp_path, out, *form.first)
    assert emulator.ledger.total.charged == 6


async def test_each_difference_is_named_and_what_it_would_buy_is_counted(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """Failed prompts and rows with fields of their own would not be bought again."""
    out = tmp_path / "out"
    emulator.fail_next("status:400", prompt="bad")
    emulator.fail_next("drop", prompt="lost")
    rows = [*b64("good", "bad", "lost"), *b64("own", model="mine")]
    defaults = {"n": 2, "model": "a", "aspect_ratio": "1:1"}
    await run_all(core, rows, out, defaults={**defaults, "n": None})
    for run in (
        Run(core, rows, out, RunOptions(defaults={"model": "b"})).plan(),
        run_all(core, rows, out, defaults={"model": "b"}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await run
        assert "model was 'a' and is 'b'; aspect_ratio was '1:1' and is not set now" in str(
            caught.value
        )
        assert "2 prompts that are done and 1 that may have been charged" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"1 prompts that are done and 1 that"):
        await run_all(core, rows, out, defaults={"model": "b", "aspect_ratio": "1:1"})
    assert emulator.ledger.total.posts == 4


async def test_options_that_bought_nothing_may_be_mended(
    emulator: Emulator, core: Any, tmp_path: Path
) -> None:
    """A model that the gateway does not know costs nothing, and the right one needs no yes."""
    out = tmp_path / "out"
    emulator.fail_next("status:404", times=2)
    await run_all(core, b64("a", "b"), out, defaults={"model": "imagem4"})
    _, report = await run_all(core, b64("a", "b"), out, defaults={"model": "imagen4"})
    assert (report.done, report.total, report.others, report.bought_before) == (2, 2, 2, 0)
    assert json.loads((out / "run.json").read_text())["options"] == {"model": "imagen4"}


async def test_a_lost_run_file_is_no_yes(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """Without it nobody knows what the batch was begun with; a yes writes it anew."""
    out = tmp_path / "out"
    await run_all(core, b64("a"), out)
    (out / "run.json").unlink()
    with pytest.raises(ConfigurationError, match=r"run\.json is missing"):
        await run_all(core, b64("a"), out)
    await run_all(core, b64("a"), out, new_options=True)
    await run_all(core, b64("a"), out)
    assert emulator.ledger.total.charged == 1


async def test_counts_are_of_this_input(emulator: Emulator, core: Any, tmp_path: Path) -> None:
    """Three rows of a folder of nine are three; the others are told apart, the money is all's."""
    out = tmp_path / "out"
    emulator.fail_next("drop", prompt="8")
    await run_all(core, b64(*"012345678"), out)
    _, report = await run_all(core, b64("0", "1", "new"), out)
    assert (report.total, report.done, report.skipped, report.ok) == (3, 3, 2, True)
    assert (report.others, report.others_unknown, report.unknown) == (7, 1, 0)
    assert (report.images, report.spent) == (9, 10)

    _, report = await run_all(core, b64("8"), out)
    assert (report.total, report.unknown, report.charged_maybe, report.others) == (1, 1, 1, 9)


async def test_another_sample_is_not_bought_before(core: Any, tmp_path: Path) -> None:
    """One more equal row asks for one more image; only other fields or words are told."""
    out = tmp_path / "out"
    await run_all(core, b64("a", "b"), out)
    _, report = await run_all(core, b64("a", "a", "b", "c"), out)
    assert (report.done, report.bought_before) == (4, 0)
    plan = await Run(core, [*b64("A", "b", "c", n=3), *b64("d")], out).plan()
    assert (plan.to_send, plan.bought_before) == (4, 3)


@pytest.mark.parametrize(
    ("defaults", "error"),
    [
        ({"prompt": "a"}, ConfigurationError),
        ({"sise": 1}, ConfigurationError),
        ({"n": 0}, InvalidRequestError),
        ({"aspect_ratio": "2:1"}, InvalidRequestError),
        ({"extra": {"x": object()}}, InvalidRequestError),
    ],
)
def test_defaults_that_cannot_be_are_refused(defaults: Any, error: type[Exception]) -> None:
    """Each is refused at once, not row by row."""
    with pytest.raises(error):
        make_defaults("imagen4", defaults)


def test_defaults_fill_what_a_row_leaves_out() -> None:
    """A row's own fields win over the defaults, theirs over the client's model; extra is merged."""
    defaults = make_defaults("client's", {"model": "given", "n": 2, "extra": {"x": 2, "y": 2}})
    assert defaults.fill(GenerationRequest("a")) == GenerationRequest(
        "a", model="given", n=2, extra={"x": 2, "y": 2}
    )
    assert defaults.fill(GenerationRequest("b", model="own", extra={"x": 1})) == (
        GenerationRequest("b", model="own", n=2, extra={"x": 1, "y": 2})
    )
    assert make_defaults("client's", {"model": None}).fill(GenerationRequest("a")).model == (
        "client's"
    )


def some(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


FIELDS = st.fixed_dictionaries(
    {
        "model": some("a", "b"),
        "n": some(1, 2, 3),
        "aspect_ratio": some("1:1", "16:9"),
        "response_format": some("url", "b64_json"),
        "extra": st.dictionaries(st.sampled_from("nxy"), st.integers(0, 2), max_size=2),
    }
)


@given(FIELDS, FIELDS)
def test_filled_rows_have_the_digest_of_what_is_sent(row: Any, defaults: Any) -> None:
    """The short way to a row's identity agrees with the request that is sent for it."""
    request = GenerationRequest("a", **{**row, "extra": row["extra"] or {}})
    made = make_defaults("client's", defaults)
    assert body_digest(request, made) == body_digest(made.fill(request))


@given(FIELDS, FIELDS, FIELDS)
def test_a_row_is_asked_anew_as_other_defaults_would_fill_it(row: Any, old: Any, new: Any) -> None:
    """A row that set nothing, or nothing like the old defaults, is what a run would make of it."""
    was, now = make_defaults(None, old), make_defaults(None, new)
    bare = GenerationRequest("a")
    anew = asked_anew(was.fill(bare), was.template, now.template)
    assert body_digest(anew or was.fill(bare)) == body_digest(now.fill(bare))
    assert (anew is None) == (not changes(was.template, now.template))

    request = GenerationRequest("a", **row)
    assert asked_anew(was.fill(request), was.template, was.template) is None


@given(st.text(min_size=1).filter(str.strip))
def test_a_prompt_is_one_however_it_is_composed(prompt: str) -> None:
    """NFC, NFD and space around it are one identity; capitals and wide spaces are one prompt."""

    def digest(words: str) -> bytes:
        return body_digest(GenerationRequest(words))

    composed = {unicodedata.normalize(form, prompt) for form in ("NFC", "NFD")}
    assert len({digest(words) for words in (prompt, f" {prompt}\n", *composed)}) == 1
    near = {digest(words)[HALF:] for words in (prompt, f"{prompt}\u00a0", *composed)}
    assert len(near) == 1
    assert digest("a  Fox")[HALF:] == digest("a\u00a0fox")[HALF:] != digest("a hare")[HALF:]
    assert digest("a  Fox")[:HALF] != digest("a fox")[:HALF]


async def test_the_blocking_client_says_the_same(emulator: Emulator, tmp_path: Path) -> None:
    """Its batch takes defaults and the yes, too."""
    import anyio.to_thread

    from imagen_async import Imagen

    def orders() -> Iterator[int]:
        with Imagen(base_url=emulator.base_url, api_key="k", allow_private=True) as imagen:
            for options in ({"n": 2}, {}, {"new_options": True}):
                defaults = {key: value for key, value in options.items() if key == "n"}
                yes = bool(options.get("new_options"))
                try:
                    with imagen.batch(
                        ["a"], out=tmp_path / "out", defaults=defaults, new_options=yes
                    ) as run:
                        yield len(list(run))
                except ConfigurationError:
                    yield -1

    assert await anyio.to_thread.run_sync(lambda: list(orders())) == [1, -1, 1]
