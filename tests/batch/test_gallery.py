"""The gallery's files: what is escaped, what is kept, what is replaced and what is left alone."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tracemalloc
from math import log
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch import gallery, lists, schema
from imagen_async.batch.gallery import columns, views
from imagen_async.batch.gallery.card import OWN, TEXT_LIMIT, card_of, is_picture, ratio_of
from imagen_async.batch.gallery.columns import packed, script_json
from imagen_async.batch.gallery.views import read_rows
from imagen_async.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(st.characters(codec=None) | st.sampled_from("<>&/!-\"'\\\u2028\u2029\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("file_name", "id", "prompt", "model", "aspect_ratio", "width", "height", "error")


def row(number: int, **fields: Any) -> dict[str, Any]:
    """Return a whole row of metadata.jsonl."""
    return {
        "file_name": f"images/ab/shot-{number}.png",
        "id": f"row-{number}",
        "prompt": f"shot {number}",
        "model": "imagen4",
        "aspect_ratio": "16:9",
        "width": 1408,
        "height": 768,
        "media_type": "image/png",
        "bytes": 1000,
        "sha256": "0" * 64,
        "request_id": "req_1",
        "created": 1_790_000_000 + number,
        **fields,
    }


def fill(folder: Path, done: Any = (), failed: Any = (), unknown: Any = ()) -> Path:
    """Write the three views of a batch's folder."""
    folder.mkdir(exist_ok=True)
    views = {"metadata": done, "failed": failed, "unknown": unknown}
    for name, rows in views.items():
        text = "".join(json.dumps(each) + "\n" for each in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return folder


def unpacked(column: Any, rows: int) -> list[Any]:
    """Read a column back as the page does."""
    if isinstance(column, list):
        return column
    return [column["of"][at] for at in column["at"] or [0] * rows]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Read every card back from the pages that index.html names."""
    cards: list[dict[str, Any]] = []
    for name in manifest_of(folder)["pages"]:
        script = (folder / name).read_text("ascii")
        body = re.fullmatch(r"gallery\.page\(JSON\.parse\('(.*)'\)\);\n", script)
        assert body
        assert not re.search(r"[<>&]|(?<!\\)'", body[1])
        page = json.loads(re.sub(r"\\(.)", r"\1", body[1]))
        table = {name: unpacked(column, page["rows"]) for name, column in page["columns"].items()}
        for at in range(page["rows"]):
            cards.append({n: v[at] for n, v in table.items() if v[at] is not None})
    return cards


def manifest_of(folder: Path) -> dict[str, Any]:
    """Read the page's own table of what it shows."""
    page = (folder / "index.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="manifest">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


@given(
    JSON.filter(
        lambda value: "Infinity" not in json.dumps(value) and "NaN" not in json.dumps(value)
    )
)
def test_script_json_round_trips(value: Any) -> None:
    """Any value comes back whole, and its script can neither be left nor misread."""
    text = script_json({"value": value})
    assert json.loads(text) == {"value": value}
    assert text.isascii()
    assert not re.search(r"[<>&\x00-\x1f\x7f]", text)


@given(st.lists(TEXT | st.sampled_from(["..", ".", "", "a b", "ä", "%2e%2e"]), max_size=5))
def test_pictures_stay_inside(parts: list[str]) -> None:
    """A picture of the page is named by a path that goes down only, and that a URL can hold."""
    name = "/".join([*parts, "x.png"])
    if is_picture(name):
        assert not {"", ".", ".."} & set(name.split("/"))
        assert not set("\\:\0") & set(name)
        assert name.encode("utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd.png",
        "../x.png",
        "images/../../x.png",
        "images//x.png",
        "images/./x.png",
        "http://example.org/x.png",
        "javascript:alert(1).png",
        "data:image/svg+xml,x.png",
        "C:/x.png",
        "..\\x.png",
        "images/\ud800.png",
        "a\0b.png",
        "",
    ],
)
def test_unsafe_paths_are_no_pictures(name: str) -> None:
    """A path that leaves the folder, or could, is never loaded by the page."""
    assert not is_picture(name)


@given(
    st.sampled_from(list(views.VIEWS)),
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.dictionaries(st.sampled_from(["type", "message", "status", "charge"]), JSON),
    st.dictionaries(TEXT, JSON),
)
def test_any_row_makes_a_card(
    status: Any, fields: dict[str, Any], error: dict[str, Any], own: dict[str, Any]
) -> None:
    """Fields that are missing or of another kind neither fail nor reach the page."""
    shown = card_of(status, {**own, "error": error, **fields})
    assert json.loads(script_json(shown)) == shown
    names = ("id", "prompt", "model", "ratio", *(name for name in shown if name.startswith(OWN)))
    assert all(isinstance(shown.get(name, ""), str) for name in names)


def test_a_card_holds_known_fields_alone() -> None:
    """What a row holds beyond the known, such as a signed link, does not reach the page."""
    error = {"type": "E", "url": "canary", "status": 400}
    shown = card_of("failed", row(1, url="https://x/?sig=canary", error=error))
    assert "canary" not in str(shown)
    assert (shown["error"], shown["http_status"]) == ("E", 400)


@pytest.mark.parametrize("field", ["message", "id", "code", "model", "created"])
def test_links_lose_what_signs_them(field: str) -> None:
    """In every text but the prompt, a link is shown without user, query and fragment."""
    text = "see https://me:canary@x.example/a?X-Amz-Signature=canary#canary, and ftp://y/b?canary"
    told = {"link": text, field: text, "error": {field: text}}
    shown = card_of("failed", {**told, "prompt": text})
    expected = "see https://x.example/a?… and ftp://y/b?…"
    assert (shown[field], shown["in.link"], shown["prompt"]) == (expected, expected, text)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.png", True),
        ("a.JPEG", True),
        ("a.webp", True),
        ("a.svg", False),
        ("a.png.svg", False),
        ("a.pdf", False),
        ("a.html", False),
        ("png", False),
    ],
)
def test_a_page_names_no_file_that_a_browser_would_run(name: str, shown: bool) -> None:
    """Only raster images are pictures of the page; the others are named and nothing more."""
    found = card_of("done", row(1, file_name=f"images/ab/{name}"))
    assert found.get("source", False) is shown
    assert found["file_name"] == f"images/ab/{name}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"aspect_ratio": "9:16", "width": 10, "height": 10}, "9:16"),
        ({"width": 1408, "height": 768}, "16:9"),
        ({"width": 896, "height": 1280}, "3:4"),
        ({"width": 1024, "height": 1536}, "2:3"),
        ({"width": 2100, "height": 900}, "7:3"),
        ({"aspect_ratio": "wide", "width": 1024, "height": 1024}, "1:1"),
        ({"width": 1000, "height": 100}, "10:1"),
        ({"width": 0, "height": 0}, ""),
        ({"width": True, "height": True}, ""),
        ({}, ""),
    ],
)
def test_ratio(fields: dict[str, Any], expected: str) -> None:
    """A card is filed under the ratio asked for, else under that of its pixels."""
    assert card_of("done", fields)["ratio"] == expected


@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_every_size_has_a_ratio(width: float, height: float) -> None:
    """Any size has a ratio that is near it, turned as it is turned."""
    found = ratio_of(width, height)
    assert found
    across, down = map(int, found.split(":"))
    assert 0.8 < (width / height) / (across / down) < 1.25
    assert (across - down) * (width - height) >= 0 or abs(log(width / height)) < log(1.25)


@given(st.lists(st.none() | st.integers(0, 3) | st.sampled_from(["a", "1"])))
def test_packed_columns_come_back(values: list[Any]) -> None:
    """A column that is packed is read back with each value in its place."""
    column = json.loads(json.dumps(packed(values)))
    assert (unpacked(column, len(values)) if values else []) == values


def test_all_rows_are_written_in_pages(tmp_path: Path) -> None:
    """Every row of every view comes, in the views' order, and the counts agree."""
    done = [row(number) for number in range(1001)]
    error = {"type": "RejectedError", "message": "no", "status": 400, "charge": "no"}
    folder = fill(tmp_path / "shots", done, failed=[{"id": "f", "prompt": "p", "error": error}])
    assert gallery.write_gallery(folder) == folder / "index.html"
    rows = rows_of(folder)
    assert [each["id"] for each in rows] == [*(f"row-{n}" for n in range(1001)), "f"]
    names = ("status", "error", "message", "http_status", "charge")
    assert [rows[-1][name] for name in names] == ["failed", "RejectedError", "no", 400, "no"]
    assert manifest_of(folder)["counts"] == {"done": {"16:9": 1001}, "failed": {"": 1}}
    assert len(manifest_of(folder)["pages"]) == 2


def test_junk_lines_are_left_out(tmp_path: Path) -> None:
    """Half a last line, another kind of value, bytes that are no text: the rows between remain."""
    folder = fill(tmp_path / "shots")
    lines = [
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 100_000,
        json.dumps(row(1)).encode(),
        b"",
        b'{"id": "ha',
    ]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))
    (folder / "report.json").write_text('{"total": 1')
    gallery.write_gallery(folder)
    assert [each["id"] for each in rows_of(folder)] == ["row-1"]
    assert list(read_rows(folder / "missing.jsonl")) == []


def test_what_the_report_says_is_shown(tmp_path: Path) -> None:
    """The page knows what is pending and what stopped the run."""
    folder = fill(tmp_path / "shots")
    (folder / "report.json").write_text('{"pending": 7, "stopped_by": "quota", "partial": true}')
    gallery.write_gallery(folder)
    assert manifest_of(folder)["report"] == {"pending": 7, "stopped_by": "quota"}
    (folder / "report.json").write_text('{"pending": NaN, "seconds": 1e999, "cost": [1]}')
    gallery.write_gallery(folder)
    assert manifest_of(folder)["report"] == {}


def test_long_texts_are_cut_and_pages_bounded(tmp_path: Path) -> None:
    """A prompt of megabytes is shown in part, and pages of long prompts hold fewer rows."""
    prompts = ["x" * 3_000_000, *("y" * TEXT_LIMIT for _ in range(400))]
    folder = fill(tmp_path / "shots", [row(n, prompt=p) for n, p in enumerate(prompts)])
    gallery.write_gallery(folder)
    rows = rows_of(folder)
    assert rows[0]["prompt"].endswith("… (2,990,000 more characters in the batch's files)")
    assert rows[1]["prompt"] == prompts[1]
    sizes = [(folder / name).stat().st_size for name in manifest_of(folder)["pages"]]
    assert len(sizes) > 1
    assert max(sizes) < columns.PAGE_CHARACTERS * 1.1


def test_ratios_with_filters_are_few(tmp_path: Path) -> None:
    """However many ratios a batch holds, the page gets a bounded number of filters."""
    done = [row(n, aspect_ratio=f"{n}:7") for n in range(1, 60)]
    folder = fill(tmp_path / "shots", done)
    gallery.write_gallery(folder)
    counts = manifest_of(folder)["counts"]["done"]
    assert len(counts) == columns.RATIO_LIMIT + 1
    assert counts["other"] == 59 - columns.RATIO_LIMIT


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Four times the rows take about the same memory."""
    peaks = []
    for count in (2000, 6000):
        folder = fill(tmp_path / str(count), (row(n) for n in range(count)))
        tracemalloc.start()
        gallery.write_gallery(folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_stale_pages_are_removed(tmp_path: Path) -> None:
    """A new gallery leaves none of the old one's pages, and files of others stay."""
    folder = fill(tmp_path / "shots", [row(n) for n in range(1200)])
    gallery.write_gallery(folder)
    old = manifest_of(folder)["pages"]
    dead, alive = folder / "gallery/.part-dead", folder / "gallery/.part-alive"
    for part in (dead, alive):
        part.mkdir()
    os.utime(dead, (0, 0))
    (folder / "gallery/notes.txt").write_text("mine")
    fill(folder, [row(1)])
    gallery.write_gallery(folder)
    kept = sorted(path.name for path in (folder / "gallery").iterdir())
    assert kept == sorted(
        [".part-alive", "notes.txt", manifest_of(folder)["pages"][0].split("/")[1]]
    )
    assert not any((folder / name).exists() for name in old)


def test_the_same_rows_make_the_same_files(tmp_path: Path) -> None:
    """Writing again changes nothing, and repairs a page that was lost."""
    folder = fill(tmp_path / "shots", [row(n) for n in range(3)])
    before = gallery.write_gallery(folder).read_bytes()
    (folder / manifest_of(folder)["pages"][0]).unlink()
    assert gallery.write_gallery(folder).read_bytes() == before
    assert len(rows_of(folder)) == 3


def test_a_failed_write_keeps_the_old_gallery(tmp_path: Path, monkeypatch: Any) -> None:
    """Until index.html is replaced, the old one and its pages stay, and no temporary file does."""
    folder = fill(tmp_path / "shots", [row(1)])
    gallery.write_gallery(folder)
    fill(folder, [row(1), row(2)])

    def fail(*_: object) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr(gallery, "document", fail)
    with pytest.raises(OSError, match="full"):
        gallery.write_gallery(folder)
    assert [each["id"] for each in rows_of(folder)] == ["row-1"]
    assert not list((folder / "gallery").glob(".part-*"))


def test_an_empty_batch_has_a_page(tmp_path: Path) -> None:
    """A batch that settled nothing yet has a gallery that says so."""
    folder = fill(tmp_path / "shots")
    gallery.write_gallery(folder)
    assert manifest_of(folder)["pages"] == []


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """A folder without views is named in the error, and nothing is written into it."""
    with pytest.raises(ConfigurationError, match="holds no batch"):
        gallery.write_gallery(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_policy_fits_the_page(tmp_path: Path) -> None:
    """The inline style and script are those the policy names, and nothing remote is named."""
    folder = fill(tmp_path / "<img src=x onerror=alert(1)> & {{script}}", [row(1)])
    page = gallery.write_gallery(folder).read_bytes().decode("utf-8")
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert found
    policy = html.unescape(found[1])
    for kind in ("style", "script"):
        inline = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        assert inline
        digest = base64.b64encode(hashlib.sha256(inline[1].encode("utf-8")).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src 'self'; ")
    assert "unsafe" not in policy
    assert not re.search(r"https?:|innerHTML|\beval\b|\burl\(", page)
    assert "<title>&lt;img src=x onerror=alert(1)&gt; &amp; {{script}} · gallery</title>" in page


def test_the_users_columns_travel(tmp_path: Path) -> None:
    """A user's columns reach the page as texts; those with few values are counted for a filter."""
    own = [{"style": "ink" if n % 3 else "oil", "sku": f"s-{n}", "new": n < 10} for n in range(60)]
    cards = [card_of("done", row(n, **own[n])) for n in range(60)]
    gallery.write_page(tmp_path, cards, views.About(title="shots"))
    assert manifest_of(tmp_path)["columns"] == {
        "style": {"oil": 20, "ink": 40},
        "sku": None,
        "new": {"true": 10, "false": 50},
    }
    shown = rows_of(tmp_path)[1]
    assert (shown["in.style"], shown["in.sku"], shown["in.new"]) == ("ink", "s-1", "true")


def test_the_users_columns_are_bounded(tmp_path: Path) -> None:
    """However many columns the rows bring, the page shows a bounded number of them."""
    own = {f"column {n}": n for n in range(99)} | {"list": [1], "nothing": None}
    gallery.write_page(tmp_path, [card_of("done", row(1, **own))], views.About(title="shots"))
    assert len(manifest_of(tmp_path)["columns"]) == columns.COLUMN_LIMIT


KILLED = """
import json, os, signal, sys
from pathlib import Path
from imagen_async.batch import schema
connection = schema.connect(Path(sys.argv[1]))
schema.begin(connection)
for number, state in enumerate(("sending", "new", "sending", "done", "sending")):
    identity, asked = number.to_bytes(16, "big"), {"id": f"{state}-{number}", "prompt": "a boat"}
    row = json.dumps(asked)
    connection.execute(schema.SENDING, (identity, 0, row, 0, 1, 1, 0, "key", 1.0))
    connection.execute("UPDATE item SET state = ? WHERE id = ?", (state, identity))
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A run that is killed while three requests are under way."""


def journal_of_killed(folder: Path) -> None:
    """Leave in a folder the journal of a process that was killed."""
    folder.mkdir()
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert ended.returncode == -signal.SIGKILL


def test_a_killed_run_says_what_is_in_doubt(tmp_path: Path) -> None:
    """What was under way when a run was killed is shown as unknown, maybe charged, and counted."""
    journal_of_killed(tmp_path / "shots")
    folder = fill(tmp_path / "shots", [row(1)])
    (folder / "report.json").write_text('{"pending": 7}')
    for _ in range(2):  # looking changes nothing
        gallery.write_gallery(folder, ended=False)
        doubts = [each for each in rows_of(folder) if each["status"] == "unknown"]
        assert [each["id"] for each in doubts] == ["sending-0", "sending-2", "sending-4"]
        assert {each["charge"] for each in doubts} == {"maybe"}
        assert {each["idempotency_key"] for each in doubts} == {"key"}
        assert manifest_of(folder)["in_doubt"] == 3
        assert manifest_of(folder)["report"] == {}
    assert (folder / lists.UNKNOWN).read_text() == ""


def test_a_run_that_goes_on_is_said(tmp_path: Path) -> None:
    """While a run holds the journal the page is written of its lists alone, and says so."""
    journal_of_killed(tmp_path / "shots")
    folder = fill(tmp_path / "shots", [row(1)])
    holder = schema.connect(folder)
    try:
        gallery.write_gallery(folder, ended=False)
    finally:
        schema.close(holder)
    manifest = manifest_of(folder)
    assert (manifest["phase"], manifest["in_doubt"]) == ("running", 0)
    assert len(rows_of(folder)) == 1


def test_commands_fit_a_shell(tmp_path: Path) -> None:
    """The commands that try again name folder and options as one word each, or are not there."""
    options = {"model": "m `x`", "n": 2, "aspect_ratio": "1:1", "extra": {"a": 1}}
    name = "it's; rm -rf $HOME"
    for folder in (tmp_path / name, tmp_path / f"{name}\x1b[2J", tmp_path / "a\u202eb"):
        fill(folder, [row(1)])
        (folder / "run.json").write_text(json.dumps({"base_url": "emulator", "options": options}))
        gallery.write_gallery(folder)
        manifest = manifest_of(folder)
        if folder.name != name:
            assert manifest["retry"] == {}
            continue
        assert shlex.split(manifest["retry"]["failed"]) == [
            *("imagen-async", "batch", "retry.jsonl", "--out", name, "--model", "m `x`"),
            *("--aspect-ratio", "1:1", "-n", "2", "--emulator", "--retry-failed"),
        ]
        assert shlex.split(manifest["retry"]["unknown"])[-2:] == ["--on-unknown", "resend"]
        assert shlex.split(manifest["lists"]["failed"]) == [f"{name}/failed.jsonl"]
