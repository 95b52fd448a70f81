"""Rows of every kind of input, and what malformed ones say."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagen_async.batch.defaults import make_defaults
from imagen_async.batch.prompts import Row, RowReader, check_input, read_source
from imagen_async.errors import Charge, ConfigurationError, InvalidRequestError
from imagen_async.wire.request import AspectRatio, GenerationRequest

LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs"])
PROMPTS = st.text(LETTERS, min_size=1).filter(lambda text: text.strip())
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def rows_of(path: Path, data: bytes | str, **options: Any) -> list[Row]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_source(path, **options))


def prompts(rows: list[Row]) -> list[str | None]:
    return [None if row.request is None else row.request.prompt for row in rows]


def test_text_gives_one_row_a_line(tmp_path: Path) -> None:
    """Blank lines, CRLF and a BOM leave the prompts and their line numbers as they are."""
    rows = rows_of(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\n  two  \nlast")

    assert [(row.line, row.request) for row in rows] == [
        (1, GenerationRequest("one")),
        (3, GenerationRequest("two")),
        (4, GenerationRequest("last")),
    ]


def test_comments_of_a_text_are_no_rows(tmp_path: Path) -> None:
    """A # begins a comment, a backslash before it a prompt; both only at a line's begin."""
    rows = rows_of(tmp_path / "a.txt", b"# one\ntwo # 2\n  #three\n\\#4\n\\\\#5\n\\six\n")

    assert [(row.line, row.request and row.request.prompt) for row in rows] == [
        (2, "two # 2"),
        (4, "#4"),
        (5, "\\\\#5"),
        (6, "\\six"),
    ]


def test_json_lines_carry_every_field(tmp_path: Path) -> None:
    """An object's fields become the request's, a bare string is a prompt, None is not given."""
    line = {
        "id": 7,
        "prompt": "a",
        "model": "m",
        "aspect_ratio": "3:4",
        "response_format": None,
        "n": 2,
        "extra": {"seed": 1},
    }
    first, second = rows_of(tmp_path / "a.jsonl", json.dumps(line) + '\n"b"\n')

    assert first.id == "7"
    assert first.request == GenerationRequest(
        "a", model="m", aspect_ratio="3:4", n=2, extra={"seed": 1}
    )
    assert second.request == GenerationRequest("b")


@SHARED
@given(
    st.builds(
        GenerationRequest,
        PROMPTS,
        model=st.none() | PROMPTS,
        aspect_ratio=st.none() | st.sampled_from(AspectRatio),
        n=st.none() | st.integers(1, 9),
        extra=st.dictionaries(st.text(LETTERS), st.integers() | st.text(LETTERS)),
    )
)
def test_json_lines_round_trip_any_request(tmp_path: Path, request_: GenerationRequest) -> None:
    """Whatever a request holds comes back the same from its line."""
    body = {"prompt": request_.prompt, "model": request_.model, "n": request_.n}
    line = body | {"aspect_ratio": request_.aspect_ratio, "extra": dict(request_.extra)}

    assert rows_of(tmp_path / "a.jsonl", json.dumps(line))[0].request == request_


@SHARED
@given(st.lists(PROMPTS.filter(lambda text: "\0" not in text and len(text) < 1000)))
def test_csv_round_trips_any_prompts(tmp_path: Path, texts: list[str]) -> None:
    """Standard quoting carries commas, quotes and line breaks."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["id", "Prompt"])
    writer.writerows([[number, text] for number, text in enumerate(texts)])

    rows = rows_of(tmp_path / "a.csv", out.getvalue())
    assert prompts(rows) == texts
    assert [row.id for row in rows] == [str(number) for number in range(len(texts))]


def test_tsv_knows_no_quotes_and_only_its_columns(tmp_path: Path) -> None:
    """A quote is a character, columns named like fields are used, others are not."""
    rows = rows_of(
        tmp_path / "a.tsv", 'Note\tprompt\tn\taspect_ratio\nx\tsay "hi"\t2\t16:9\ny\tplain\t\t\n'
    )

    assert [row.request for row in rows] == [
        GenerationRequest('say "hi"', n=2, aspect_ratio="16:9"),
        GenerationRequest("plain"),
    ]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".tsv"])
def test_every_kind_may_be_gzipped(tmp_path: Path, suffix: str) -> None:
    """A .gz of each kind reads like the plain file."""
    text = 'prompt\n"a"\n' if suffix in (".csv", ".tsv") else '"a"\n'
    plain = rows_of(tmp_path / f"a{suffix}", text)

    assert rows_of(tmp_path / f"a{suffix}.gz", gzip.compress(text.encode())) == plain
    assert len(plain) == 1


def test_standard_input_gives_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads prompts from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))

    assert prompts(list(read_source("-"))) == ["one", "two"]


def test_defaults_fill_what_a_row_leaves_out(tmp_path: Path) -> None:
    """A row's own fields win over the defaults, and extra is merged."""
    rows = rows_of(
        tmp_path / "a.jsonl",
        '{"prompt":"a"}\n{"prompt":"b","model":"own","extra":{"x":1}}\n',
    )
    defaults = make_defaults("the client's", {"model": "given", "n": 2, "extra": {"y": 2}})

    assert [row.request and defaults.fill(row.request) for row in rows] == [
        GenerationRequest("a", model="given", n=2, extra={"y": 2}),
        GenerationRequest("b", model="own", n=2, extra={"x": 1, "y": 2}),
    ]


BROKEN = {
    "not json": (b'{"prompt": "a"', "not JSON"),
    "not utf-8": (b'"\xff"', "not UTF-8"),
    "a number": (b"7", "neither"),
    "no prompt": (b'{"id": "x"}', "no prompt"),
    "empty prompt": (b'{"prompt": " "}', "prompt is empty"),
    "prompt of a wrong type": (b'{"prompt": 7}', "must be a str"),
    "wrong ratio": (b'{"prompt": "a", "aspect_ratio": "2:1"}', "16:9"),
    "wrong n": (b'{"prompt": "a", "n": "2"}', "n must be"),
    "a typo": (b'{"prompt": "a", "aspct_ratio": "1:1"}', "call it aspect_ratio"),
    "NaN": (b'{"prompt": "a", "extra": {"x": NaN}}', "not JSON"),
    "huge number": (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", "not JSON"),
    "deep nesting": (b"[" * 100_000, "nested"),
    "id of a wrong type": (b'{"prompt": "a", "id": [1]}', "id must be"),
    "extra of a wrong type": (b'{"prompt": "a", "extra": 1}', "extra must"),
}


@pytest.mark.parametrize(("line", "says"), BROKEN.values(), ids=BROKEN)
def test_a_malformed_line_costs_that_line_only(tmp_path: Path, line: bytes, says: str) -> None:
    """Its error names the line and the rows around it still come."""
    before, wrong, after = rows_of(tmp_path / "a.jsonl", b'"a"\n' + line + b'\n"b"\n')

    assert prompts([before, after]) == ["a", "b"]
    assert wrong.request is None
    assert isinstance(wrong.error, InvalidRequestError)
    assert wrong.error.message.startswith("line 2: ")
    assert says in wrong.error.message


RAGGED = {
    "too many fields": ("a.csv", "prompt,n\na cat, a dog,1\nb,2\n", "3 fields"),
    "too few fields": ("a.csv", "n,prompt\n1\n2,b\n", "1 fields"),
    "a quote that never ends": ("a.csv", 'prompt,n\nb,1\n"a,2\nc,3\n', "not CSV"),
    "a field beyond the limit": ("a.csv", "prompt\n" + "x" * 140_000 + "\nb\n", "not CSV"),
    "n is no number": ("a.tsv", "prompt\tn\na\tx\nb\t2\n", "whole number"),
    "extra is no JSON": ("a.csv", "prompt,extra\na,{\nb,\n", "JSON object"),
}


@pytest.mark.parametrize(("name", "text", "says"), RAGGED.values(), ids=RAGGED)
def test_a_malformed_record_costs_that_record_only(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    """A forgotten quote does not turn the lines after it into a paid prompt."""
    rows = rows_of(tmp_path / name, text)

    (wrong,) = (row for row in rows if row.error is not None)
    assert says in str(wrong.error)
    assert prompts([row for row in rows if row.error is None]) == ["b"]


def test_bytes_that_are_not_utf8_are_told_in_every_kind(tmp_path: Path) -> None:
    """Text, CSV and TSV rows with other bytes are errors, and the next rows come."""
    for name, head in (("a.txt", b""), ("a.csv", b"prompt\n"), ("a.tsv", b"prompt\n")):
        wrong, right = rows_of(tmp_path / name, head + b"caf\xe9\nb\n")

        assert "UTF-8" in str(wrong.error)
        assert right.request == GenerationRequest("b")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_one_error_and_no_prompts(tmp_path: Path, encoding: str) -> None:
    """Windows' shells write it: half of its lines would pass for prompts and be paid for."""
    for text in ("a fox\na crow\na hare\n", "狐狸\n乌鸦\n野兔\n"):
        rows = rows_of(tmp_path / "a.txt", text.encode(encoding))
        assert "save the input as UTF-8" in str(rows[-1].error)
        assert [row for row in rows if row.error is None] == []
    with pytest.raises(ConfigurationError, match="save the input as UTF-8"):
        rows_of(tmp_path / "a.csv", "prompt\na fox\n".encode(encoding))


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
def test_a_file_that_breaks_off_is_told_after_its_rows(tmp_path: Path, suffix: str) -> None:
    """The rows before the cut of a .gz come, then an error with the line's number."""
    head = "prompt\n" if suffix == "csv" else ""
    lines = head + "".join(f'"{number} {hash(number * 7919)}"\n' for number in range(20_000))
    whole = gzip.compress(lines.encode())

    *rows, wrong = rows_of(tmp_path / f"a.{suffix}.gz", whole[: len(whole) // 2])
    assert len(rows) > 1000
    assert all(row.error is None for row in rows)
    assert "breaks off" in str(wrong.error)
    assert wrong.line == rows[-1].line + 1


UNUSABLE = {
    "unknown kind": ("a.parquet", b"", "a .txt, .jsonl"),
    "no prompt column": ("a.csv", b"text,n\n", "prompt_column"),
    "empty table": ("a.csv", b"", "prompt_column"),
    "gzip that is none": ("a.csv.gz", b"prompt\n", "breaks off"),
}


@pytest.mark.parametrize(("name", "data", "says"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_used_is_refused_at_once(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    """The call itself raises, and says what to do."""
    (tmp_path / name).write_bytes(data)

    with pytest.raises(ConfigurationError, match=says):
        read_source(tmp_path / name)


def test_a_missing_file_and_a_missing_id_column_are_refused(tmp_path: Path) -> None:
    """Both name what was not found."""
    with pytest.raises(ConfigurationError, match="No such file"):
        read_source(tmp_path / "none.txt")
    (tmp_path / "a.csv").write_text("prompt\n")
    with pytest.raises(ConfigurationError, match="key"):
        read_source(tmp_path / "a.csv", id_column="key")


def test_our_own_lists_can_be_an_input(tmp_path: Path) -> None:
    """Rows of the views are taken, with what they say of money."""
    error = {"type": "OutcomeUnknownError", "charge": "maybe", "idempotency_key": "k"}
    rows = rows_of(
        tmp_path / "a.jsonl",
        "".join(
            json.dumps({"prompt": "a", **more}) + "\n"
            for more in (
                {"error": error, "files": []},
                {"error": {"charge": "no"}, "line": 3},
                {"error": "any text"},
                {"file_name": "a.png", "width": 1, "sha256": "", "request_id": None},
            )
        ),
    )

    assert [row.error for row in rows] == [None] * 4
    assert [row.prior and row.prior.charge for row in rows] == [
        Charge.MAYBE,
        Charge.NO,
        Charge.MAYBE,
        None,
    ]
    assert rows[0].prior is not None
    assert rows[0].prior.idempotency_key == "k"


@SHARED
@given(st.binary(max_size=300), st.sampled_from(["txt", "jsonl", "csv", "tsv", "csv.gz"]))
def test_any_bytes_give_rows_or_a_configuration_error(
    tmp_path: Path, data: bytes, suffix: str
) -> None:
    """No input of any kind raises anything else, and each row is a request or an error."""
    try:
        rows = rows_of(tmp_path / f"a.{suffix}", data)
    except ConfigurationError:
        return
    assert all((row.request is None) != (row.error is None) for row in rows)


def test_a_repeated_id_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    """The first row keeps the id, the second is refused."""
    (tmp_path / "a.jsonl").write_text(
        '{"id":"x","prompt":"a"}\n{"id":"y","prompt":"b"}\n{"id":"x","prompt":"c"}\n'
    )

    rows = [*map(RowReader(), read_source(tmp_path / "a.jsonl"))]
    assert [row.error is None for row in rows] == [True, True, False]
    assert "line 3" in str(rows[2].error)
    assert "line 1" in str(rows[2].error)


def test_python_values_become_rows() -> None:
    """Prompts, requests and rows may be mixed; what is none of them is an error."""
    values: list[Any] = ["a", GenerationRequest("b"), Row(9, "c", GenerationRequest("c")), "", 7]
    rows = [*map(RowReader(), values)]
    assert prompts(rows) == ["a", "b", "c", None, None]
    assert [row.line for row in rows] == [1, 2, 9, 4, 5]


@pytest.mark.parametrize("value", ["one prompt", b"", {"prompt": "a"}, 7])
def test_a_single_value_is_no_input(value: Any) -> None:
    """A str is not taken for a list of characters."""
    with pytest.raises(ConfigurationError, match="iterable"):
        check_input(value)
