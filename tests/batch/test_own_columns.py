"""The user's own columns: kept beside each image to the end, never sent, and never bought for."""

from __future__ import annotations

import csv
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagen_async import AsyncImagen
from imagen_async.batch import own_columns, schema
from imagen_async.batch.gallery import views, write_gallery
from imagen_async.batch.gallery.columns import script_json
from imagen_async.batch.prompts import Row, RowReader, read_source
from imagen_async.batch.records import RequestRow, decode
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError, InvalidRequestError
from imagen_async.integrations.export import export
from imagen_async.wire.request import REQUEST_FIELDS, GenerationRequest
from tests.batch.runs import core_on, execute, run_all, view

OURS = (*own_columns.LISTED, *REQUEST_FIELDS, "id")
NAMES = st.text(max_size=9) | st.sampled_from([*OURS, "width_", "style"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OWN = st.dictionaries(NAMES, JSON, max_size=5).map(
    lambda found: own_columns.of_row(
        (name, value) for name, value in found.items() if name not in (*REQUEST_FIELDS, "id")
    )
)
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
TABLE = """id,prompt,style,width,error
a1,fox,ink,7,
a2,hare,,8,late
a3,no,oil,9,
a4,lost,oil,10,
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def rows_of(values: Any) -> list[Row]:
    return [*map(RowReader(), values)]


@given(st.lists(st.tuples(NAMES, JSON), max_size=6))
def test_no_column_is_lost_or_takes_a_name_of_ours(cells: list[tuple[str, Any]]) -> None:
    """Every value is kept, under its own name or that with underscores, apart from our names."""
    own = own_columns.of_row(cells)

    assert list(own.values()) == [value for _, value in cells]
    assert not own.keys() & {*OURS}
    for (name, _), kept in zip(cells, own, strict=True):
        assert kept.startswith(name)
        assert not kept.removeprefix(name).strip("_")
    assert own_columns.of_row(own.items()) == own


@SHARED
@given(OWN)
def test_columns_come_back_from_the_journal_and_from_a_line(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    """What the journal or a list that is fed back holds is what the row had."""
    try:
        row = Row(1, "a", GenerationRequest("fox"), columns=own)
    except InvalidRequestError:
        return  # a name like a field's
    kept = RequestRow(GenerationRequest("fox"), "a", row.columns)
    path = write(tmp_path / "a.jsonl", json.dumps({"id": "a", "prompt": "fox", **own}))

    assert decode(kept.json, RequestRow) == kept
    assert [*read_source(path)] == [row]


async def test_they_travel_everywhere(tmp_path: Path) -> None:
    """Lists, outcomes, gallery and export have them, in later runs without the input, too."""
    source, out = write(tmp_path / "rows.csv", TABLE), tmp_path / "out"
    faults = [{"fault": "400", "prompt": "no"}, {"fault": "504", "prompt": "lost"}]
    async with Emulator(draw="tiny", faults=faults) as emulator:
        core = core_on(emulator)
        outcomes, _ = await run_all(core, read_source(source), out, ordered=True)
        source.unlink()
        await run_all(core, [], out)
        await core.aclose()

    own = {
        "a1": {"style": "ink", "width_": "7", "error_": ""},
        "a2": {"style": "", "width_": "8", "error_": "late"},
        "a3": {"style": "oil", "width_": "9", "error_": ""},
        "a4": {"style": "oil", "width_": "10", "error_": ""},
    }
    assert {each.id: each.columns for each in outcomes} == own
    assert outcomes[1].row == {"id": "a2", "prompt": "hare", "model": "imagen4", **own["a2"]}
    rows = [each for name in ("metadata", "failed", "unknown") for each in view(out, name)]
    assert {each["id"]: own_columns.of_list(each) for each in rows} == own
    assert view(out, "metadata")[0]["width"] == 16  # the picture's
    cards = {card["id"]: card for card in views.cards(out)}
    assert (cards["a2"]["in.width_"], cards["a2"]["in.error_"]) == ("8", "late")
    assert cards["a4"]["in.style"] == "oil"
    made = export(out, "webdataset")
    with tarfile.open(next(made.path.glob("*.tar"))) as tar:
        names = [name for name in tar.getnames() if name.endswith(".json")]
        kept = [json.load(file) for name in names if (file := tar.extractfile(name))]
    assert [own_columns.of_list(each) for each in kept] == [own["a1"], own["a2"]]


async def test_they_are_columns_of_parquet(core: Any, tmp_path: Path) -> None:
    """Each has its type; one called image does not take the place of the pictures."""
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "fox", "score": 1, "image": "a"}, {"prompt": "hare", "score": 0.5}]
    await run_all(core, rows, tmp_path / "out", ordered=True)
    table = pq.read_table(next(export(tmp_path / "out", "parquet").path.glob("*.parquet")))

    assert sorted(table["score"].to_pylist()) == [0.5, 1.0]
    assert {*table["image_"].to_pylist()} == {"a", None}


async def test_other_columns_buy_nothing_again(
    core: Any, emulator: Emulator, tmp_path: Path
) -> None:
    """Who changes, adds or drops a column gets no second image; what is sent again has the new."""
    emulator.fail_next("400")
    first = [{"id": "a", "prompt": "fox", "style": "ink"}, {"id": "b", "prompt": "hare"}]
    out = tmp_path / "out"
    await run_all(core, first[:1], out)
    await run_all(core, first, out, retry_failed=False)
    changed = [{**each, "style": "oil", "mood": "dark"} for each in first]
    outcomes, _ = await run_all(core, changed, out, retry_failed=True)
    await run_all(core, ["fox", "hare"], out, retry_failed=True)

    assert [(each.id, each.columns) for each in outcomes] == [
        ("a", {"style": "oil", "mood": "dark"})
    ]
    assert {prompt: emulator.ledger[prompt].charged for prompt in ("fox", "hare")} == {
        "fox": 1,
        "hare": 1,
    }
    assert [own_columns.of_list(row) for row in view(out, "metadata")] == [
        {"style": "oil", "mood": "dark"},
        {},
    ]


async def test_a_row_without_columns_leaves_those_that_are_kept(
    core: Any, emulator: Emulator, tmp_path: Path
) -> None:
    """A failed prompt that is tried again from a plain list keeps the columns of its first row."""
    emulator.fail_next("400")
    await run_all(core, [{"prompt": "fox", "style": "ink"}], tmp_path)
    outcomes, _ = await run_all(core, ["fox"], tmp_path, retry_failed=True)

    assert outcomes[0].columns == {"style": "ink"}
    assert view(tmp_path, "metadata")[0]["style"] == "ink"


async def test_a_list_that_is_fed_back_keeps_them(
    core: Any, emulator: Emulator, tmp_path: Path
) -> None:
    """failed.jsonl as an input is the same items: nothing of the list's own becomes a column."""
    out = tmp_path / "out"
    emulator.fail_next("400")
    await run_all(core, [{"id": 1, "prompt": "fox", "style": "ink", "line": 4}], out)
    failed = read_source(out / "failed.jsonl")
    outcomes, report = await run_all(core, failed, out, retry_failed=True)

    assert report.done == report.total == 1
    assert outcomes[0].columns == {"style": "ink", "line_": 4}
    assert own_columns.of_list(view(out, "metadata")[0]) == {"style": "ink", "line_": 4}
    again = [*read_source(out / "metadata.jsonl")]
    assert again[0].columns == {"style": "ink", "line_": 4}


async def test_a_dead_runs_items_have_them(core: Any, tmp_path: Path) -> None:
    """What was under way as the process was killed is listed with its columns."""
    await run_all(core, [{"prompt": "fox", "style": "ink"}], tmp_path)
    execute(tmp_path, "UPDATE item SET state = 'sending', charge = 1, answer = NULL, images = 0")
    for image in (tmp_path / "images").rglob("*.png"):
        image.unlink()
    assert views.in_doubt(tmp_path).rows[0]["style"] == "ink"
    await run_all(core, [], tmp_path)

    assert view(tmp_path, "unknown")[0]["style"] == "ink"


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, r"'when' holds what JSON .* \(datetime\)"),
        ({"x": float("nan")}, r"'x' holds .* \(float\)"),
        ({"deep": {"x": {b"a": 1}}}, r"'deep' holds .* \(dict\)"),
        ({7: "x"}, "the name of its column 7 is no text"),
        ({"text": "x" * own_columns.MOST}, "take 65,547 characters, and 65,536 are kept"),
        ({"aspectRatio": "1:1"}, "'aspectRatio' would not be sent; call it aspect_ratio"),
        ({"Aspect Ratios": "1:1"}, "call it aspect_ratio"),
        ({"Response-Format": "url"}, "call it response_format"),
        ({"Model": "m"}, "call it model"),
        ({"size": "2K"}, "'size' would not be sent; put it into the column extra"),
        ({"\x1b[2J\u202e\n": object()}, r"column '\\x1b\[2J\\u202e\\n' holds"),
    ],
)
async def test_columns_that_cannot_be_kept_cost_their_row(
    core: Any, emulator: Emulator, tmp_path: Path, own: Any, says: str
) -> None:
    """The row is refused before it is sent, in one clear line, and the next one comes."""
    outcomes, report = await run_all(
        core, [{"id": "a", "prompt": "fox", **own}, {"prompt": "hare", "mode": 1}], tmp_path
    )

    wrong = next(each for each in outcomes if not each.ok)
    assert report.invalid == report.done == 1
    assert wrong.id == "a"
    with pytest.raises(InvalidRequestError, match=f"^item 1: .*{says}"):
        raise wrong.error or AssertionError
    assert str(wrong.error).isprintable()
    assert emulator.ledger.total.posts == 1


def test_a_row_of_ones_own_is_checked_as_well() -> None:
    """A Row that a program makes holds columns that can be kept, or none."""
    with pytest.raises(InvalidRequestError, match="'width' is ours; call it width_"):
        Row(1, request=GenerationRequest("a"), columns={"width": 1})


def test_a_header_names_fields_as_they_are_sent(tmp_path: Path) -> None:
    """Nearly the name of a field is refused before anything is bought; an empty name is none."""
    path = write(tmp_path / "a.csv", "prompt,Aspect Ratio\nfox,16:9\n")
    with pytest.raises(ConfigurationError, match="'Aspect Ratio' would not be sent"):
        read_source(path)

    [row] = read_source(write(path, ",prompt,style,style\n0,fox,ink,oil\n"))
    assert row.columns == {"style": "ink", "style_": "oil"}


def test_the_prompt_column_leaves_another_prompt_as_a_column(tmp_path: Path) -> None:
    """The column that is named is the prompt, whatever else is called so and in whichever order."""
    for text in ('{"text": "fox", "prompt": "x"}', '{"prompt": "x", "text": "fox"}'):
        [row] = read_source(write(tmp_path / "a.jsonl", text), prompt_column="text")
        assert row.request == GenerationRequest("fox")
        assert row.columns == {"prompt_": "x"}
    [row] = read_source(write(tmp_path / "a.tsv", "prompt\ttext\nx\tfox"), prompt_column="text")
    assert row.request == GenerationRequest("fox")
    assert row.columns == {"prompt_": "x"}


async def test_cells_with_line_breaks_and_markup_stay_as_they_are(
    core: Any, tmp_path: Path
) -> None:
    """A line break, an escape and markup in a cell are that text in the list, on one line of it."""
    text = "<script>alert(1)</script>\n\x1b[2J\u202e\U0001f600"
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt", "note"], ["fox", text]])
    out = tmp_path / "out"
    await run_all(core, read_source(tmp_path / "a.csv"), out)
    page = write_gallery(out)

    assert view(out, "metadata")[0]["note"] == text
    script = next((out / "gallery").rglob("page-*.js")).read_text()
    assert "alert(1)" not in page.read_text().replace(script_json(text)[1:-1], "")
    assert "alert(1)" in script
    assert "<" not in script
    assert "\x1b" not in script


async def test_a_journal_of_the_version_before_is_gone_on_with(
    core: Any, emulator: Emulator, tmp_path: Path
) -> None:
    """Its rows had no columns, and new ones may; an older package then refuses it."""
    await run_all(core, ["fox"], tmp_path)
    execute(tmp_path, "PRAGMA user_version = 3")
    _, report = await run_all(core, ["fox", {"prompt": "hare", "style": "ink"}], tmp_path)

    assert report.done == 2
    assert emulator.ledger.total.charged == 2
    assert execute(tmp_path, "PRAGMA user_version") == [(schema.VERSION,)]


async def test_rows_of_python_reach_the_public_client(tmp_path: Path) -> None:
    """Dictionaries with ids are rows, without a private import; their own words are not sent."""
    async with (
        Emulator(draw="tiny") as emulator,
        AsyncImagen(base_url=emulator.base_url, allow_private=True) as imagen,
        imagen.batch([{"id": "a1", "prompt": "fox", "style": "x"}], out=tmp_path) as run,
    ):
        [outcome] = [outcome async for outcome in run]

    assert outcome.row == {"id": "a1", "prompt": "fox", "style": "x"}
    assert emulator.requests[0].body == {"prompt": "fox"}
