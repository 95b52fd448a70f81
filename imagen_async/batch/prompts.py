"""Prompts in: files, standard input and Python values, read lazily as rows."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeAlias

import attrs

from imagen_async.batch import own_columns
from imagen_async.batch.source import Source, SourceRows
from imagen_async.errors import Charge, ConfigurationError, InvalidRequestError
from imagen_async.wire.request import REQUEST_FIELDS, GenerationRequest
from imagen_async.wire.text import printable

BOM = b"\xef\xbb\xbf"
_NOT_UTF8 = "it is not UTF-8; save the file as UTF-8."
_BROKEN = (OSError, EOFError, zlib.error)
_UNREADABLE = "cannot be read; give a .txt, .jsonl, .csv or .tsv file, each also as .gz, or -"


@attrs.frozen
class EarlierOutcome:
    """How an earlier run left a row: the part of its ``error`` that decides about money."""

    charge: Charge
    idempotency_key: str | None = None


@attrs.frozen
class Row:
    """One row of an input: a request, or what is wrong with it.

    Args:
        line: Where it stands, counted from 1: a line of a file, else the item's number.
        id: The user's own name of the row.
        request: What to generate; None if the row is wrong.
        error: What is wrong.
        prior: How an earlier run left it, if the row comes from one of its lists.
        columns: What else the row holds: it is kept beside each image, and never sent.

    Raises:
        InvalidRequestError: If the columns cannot be kept; it says why.
    """

    line: int
    id: str | None = None
    request: GenerationRequest | None = None
    error: InvalidRequestError | None = None
    prior: EarlierOutcome | None = None
    columns: Mapping[str, Any] = attrs.field(factory=dict, hash=False, validator=own_columns.check)


_Given: TypeAlias = str | GenerationRequest | Row | Mapping[str, Any]
_Places: TypeAlias = Mapping[str, int]
Requests: TypeAlias = Iterable[_Given] | AsyncIterable[_Given]


@attrs.frozen
class _Names:
    """How the rows of one input name things."""

    prompt: str = "prompt"
    id: str = "id"


def read_source(
    path: str | Path,
    *,
    prompt_column: str = "prompt",
    id_column: str = "id",
) -> Iterator[Row]:
    r"""Open an input and return its rows, read as they are asked for.

    Args:
        path: A ``.txt`` (one prompt a line; ``#`` begins a comment, ``\#`` a prompt with a
            ``#``), ``.jsonl``, ``.csv`` or ``.tsv`` file, each also with
            ``.gz``; or ``-`` for lines of text on standard input.
        prompt_column: The column or key of the prompt; any case of it will do in a header.
        id_column: The column or key of the user's own id. Columns that are no field of a request
            are kept beside each image, and never sent.

    Returns:
        The rows in order. One that is malformed carries its error, and the next ones still come.

    Raises:
        ConfigurationError: If the file cannot be opened, its kind is not known, or its header
            names no prompt.
    """
    names = _Names(prompt_column, id_column)
    rows = _read(str(path), names)
    next(rows)  # opens the file and reads its header, so that what is wrong shows here
    return SourceRows(Source(path, *attrs.astuple(names)), rows)


class RowReader:
    """Makes rows of an input's values, with an error on each that repeats an id.

    It remembers the ids in 8 bytes each and a dict's own cost.
    """

    def __init__(self) -> None:
        self._number = 0
        self._lines: dict[bytes, int] = {}

    def __call__(self, value: object) -> Row:
        """Return the row of the next prompt, request, row or line of a ``.jsonl`` file."""
        self._number += 1
        row = _as_row(self._number, value)
        if row.id is None or row.error is not None:
            return row
        name = row.id.encode("utf-8", "surrogatepass")
        first = self._lines.setdefault(hashlib.sha256(name).digest()[:8], row.line)
        if first == row.line:
            return row
        shown = printable(repr(row.id), 80)
        text = f"the id {shown} is that of line {first} too; give each row its own."
        return attrs.evolve(_wrong(row.line, text), id=row.id, columns=row.columns)


def check_input(requests: object) -> None:
    """Refuse what is no iterable of prompts.

    Raises:
        ConfigurationError: If it is a single text, or not iterable.
    """
    several = isinstance(requests, (Iterable, AsyncIterable))
    if not several or isinstance(requests, (str, bytes, Mapping)):
        raise ConfigurationError(
            f"a batch takes an iterable of prompts, not one {type(requests).__name__}; "
            "put it into a list, or read a file with read_source."
        )


def _as_row(number: int, value: object) -> Row:
    if isinstance(value, Row):
        return value
    if isinstance(value, GenerationRequest):
        return Row(number, request=value)
    if not isinstance(value, str) and isinstance(value, Mapping):  # str is told sooner
        return _mapped(number, value, _OURS, "item")
    try:
        return Row(number, request=GenerationRequest(value))  # type: ignore[arg-type]
    except InvalidRequestError as error:
        return _wrong(number, error.message, what="item")


def _wrong(line: int, message: str, what: str = "line") -> Row:
    return Row(line, error=InvalidRequestError(f"{what} {line}: {message}"))


def _read(path: str, names: _Names) -> Iterator[Row]:
    kind = _texts if path == "-" else _kind_of(path)
    if kind is None:
        raise ConfigurationError(f"{printable(path)} {_UNREADABLE} for lines on standard input.")
    try:
        source = contextlib.nullcontext(sys.stdin.buffer) if path == "-" else _open(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{printable(path)} cannot be opened: {reason}.") from None
    with source as stream:
        try:
            yield from kind(_lines(stream), names, path)
        except _CutError as error:
            yield _wrong(error.line, str(error))


def _kind_of(path: str) -> _Kind | None:
    return _KINDS.get(Path(path.removesuffix(".gz")).suffix.lower())


def _open(path: str) -> gzip.GzipFile | IO[bytes]:
    return gzip.GzipFile(path, "rb") if path.endswith(".gz") else Path(path).open("rb")


class _CutError(Exception):
    """The input broke off: a bad disk, or a .gz file that is not all there.

    Args:
        line: The one that did not come, counted from 1.
        problem: Why.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _lines(stream: gzip.GzipFile | IO[bytes]) -> Iterator[bytes]:
    come = 0
    try:
        for come, line in enumerate(stream, 1):
            if b"\0" in line:
                raise _CutError(come, "it holds NUL, as UTF-16 does; save the input as UTF-8.")
            yield line.removeprefix(BOM) if come == 1 else line
    except _BROKEN as error:
        problem = f"the input breaks off here ({type(error).__name__})."
        raise _CutError(come + 1, problem) from None


def _texts(lines: Iterator[bytes], _: _Names, __: str) -> Iterator[Row]:
    return _by_line(lines, _text_row)


def _text_row(number: int, line: str) -> Row | None:
    if line.startswith("#"):
        return None
    return _row(number, {"prompt": line[1:] if line.startswith(r"\#") else line}, {})


def _objects(lines: Iterator[bytes], names: _Names, _: str) -> Iterator[Row]:
    return _by_line(lines, partial(_object, names=names))


def _by_line(lines: Iterator[bytes], parse: Callable[[int, str], Row | None]) -> Iterator[Row]:
    yield Row(0)
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            yield _wrong(number, _NOT_UTF8)
            continue
        if text and (row := parse(number, text)) is not None:
            yield row


def _object(number: int, text: str, names: _Names) -> Row:
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        return _wrong(number, "it is nested too deeply.")
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is not JSON"
        return _wrong(number, f"it is not JSON ({reason}); each line holds one object.")
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        return _wrong(number, "it is neither a JSON object nor a string.")
    return _mapped(number, value, names)


def _mapped(number: int, value: Mapping[Any, Any], names: _Names, what: str = "line") -> Row:
    """Return the row of named values; what is none of a request's fields is the user's own."""
    if names == _OURS and value.keys() <= _KEYS.keys():  # most rows hold no more
        return _row(number, value, {}, what)
    given = {"prompt": names.prompt, "id": names.id}
    keys = _KEYS | {name: key for name, key in given.items() if key in value}
    fields = {name: value[key] for name, key in keys.items() if key in value}
    if own_columns.is_listed(value):
        fields["error"] = value.get("error")
        return _row(number, fields, own_columns.of_list(value), what)
    rest = [(key, each) for key, each in value.items() if key not in keys.values()]
    return _row(number, fields, own_columns.of_row(rest), what)


def _no_constant(name: str) -> float:
    raise ValueError(name)


_KEYS = {name: name for name in (*REQUEST_FIELDS, "id")}
_OURS = _Names()
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _comma_separated(lines: Iterator[bytes], names: _Names, path: str) -> Iterator[Row]:
    # strict: a forgotten quote would otherwise swallow the lines after it into one paid prompt.
    reader = csv.reader((line.decode(errors="surrogateescape") for line in lines), strict=True)
    return _table(_records(reader), names, path)


def _records(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"it is not CSV ({error}); check the quotes."


def _tab_separated(lines: Iterator[bytes], names: _Names, path: str) -> Iterator[Row]:
    texts = (line.decode(errors="surrogateescape").rstrip("\r\n") for line in lines)
    records = ((at, text.split("\t") if text else []) for at, text in enumerate(texts, 1))
    return _table(records, names, path)


def _table(
    records: Iterator[tuple[int, list[str] | str]], names: _Names, path: str
) -> Iterator[Row]:
    try:
        _, header = next(records, (1, []))
    except _CutError as error:
        raise ConfigurationError(f"{printable(path)}: {error}") from None
    titles = [] if isinstance(header, str) else [title.strip() for title in header]
    columns = _columns(titles, names, path)
    named = [(title, at) for at, title in enumerate(titles) if title]
    own = own_columns.of_row((title, at) for title, at in named if at not in columns.values())
    if wrong := next(filter(None, map(own_columns.misspelt, own)), None):
        raise ConfigurationError(f"{printable(path)}: {wrong}")
    yield Row(0)
    for line, cells in records:
        if cells:
            yield _record(line, cells, len(titles), columns, own)


def _columns(titles: list[str], names: _Names, path: str) -> _Places:
    folded = [title.lower() for title in titles]
    prompt = next((title for title in (names.prompt, "prompt") if title in titles), None)
    if prompt is not None:
        place = titles.index(prompt)
    elif names.prompt.lower() in folded:
        place = folded.index(names.prompt.lower())
    else:
        shown = printable(", ".join(titles) or "nothing", 200)
        raise ConfigurationError(
            f"{printable(path)} has no column {printable(names.prompt)!r}: its first line names "
            f"{shown}; name the column of the prompts with prompt_column."
        )
    if names.id != "id" and names.id not in titles:
        raise ConfigurationError(f"{printable(path)} has no column {printable(names.id)!r}.")
    columns = {name: titles.index(name) for name in REQUEST_FIELDS[1:] if name in titles}
    if names.id in titles:
        columns["id"] = titles.index(names.id)
    return {"prompt": place, **columns}


def _record(line: int, cells: list[str] | str, width: int, columns: _Places, own: _Places) -> Row:
    if isinstance(cells, str):
        return _wrong(line, cells)
    if len(cells) != width:
        text = (
            f"it has {len(cells)} fields and the first line {width}; does the prompt need quotes?"
        )
        return _wrong(line, text)
    fields: dict[str, Any] = {name: cells[at] for name, at in columns.items() if cells[at].strip()}
    try:
        "".join(cells).encode()  # which escapes of other bytes cannot be
        if "n" in fields:
            fields["n"] = int(fields["n"])
        if "extra" in fields:
            fields["extra"] = _DECODER.decode(fields["extra"])
    except UnicodeEncodeError:
        return _wrong(line, _NOT_UTF8)
    except (ValueError, RecursionError):
        return _wrong(line, "n is not a whole number, or extra is not a JSON object.")
    return _row(line, fields, {name: cells[at] for name, at in own.items()})


def _row(line: int, fields: Mapping[str, Any], own: Mapping[str, Any], what: str = "line") -> Row:
    """Return the row of named values; those that are None count as not given."""
    given = {name: value for name in REQUEST_FIELDS if (value := fields.get(name)) is not None}
    name = fields.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
        return _wrong(line, "id must be a string or a whole number.", what)
    identity = None if name is None else str(name)
    request = problem = None
    try:
        if "prompt" not in given:
            raise InvalidRequestError("it has no prompt; say what the image shows.")  # noqa: TRY301
        request = GenerationRequest(**given)
    except InvalidRequestError as error:
        problem = _wrong(line, error.message, what).error
    try:
        return Row(line, identity, request, problem, _prior(fields.get("error")), own)
    except InvalidRequestError as error:
        return attrs.evolve(_wrong(line, error.message, what), id=identity)


def _prior(error: object) -> EarlierOutcome | None:
    """Return what a fed-back row says of money; what it does not say may have cost."""
    if error is None:
        return None
    told = error if isinstance(error, Mapping) else {}
    key = told.get("idempotency_key")
    charge = {"no": Charge.NO, "yes": Charge.YES}.get(str(told.get("charge")), Charge.MAYBE)
    return EarlierOutcome(charge, key if isinstance(key, str) and key.isascii() else None)


_Kind: TypeAlias = Callable[[Iterator[bytes], _Names, str], Iterator[Row]]
_KINDS: Mapping[str, _Kind] = {
    ".txt": _texts,
    ".jsonl": _objects,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
}
