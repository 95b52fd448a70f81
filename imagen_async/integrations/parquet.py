"""Parquet with an image column as Hugging Face's ``datasets`` reads it, and a card of a data set.

The files of a data set have one schema, so the columns are found out before anything is written.
"""

from __future__ import annotations

import json
from array import array
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import attrs

from imagen_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GROUP_ROWS: Final = 100
"""Rows of a row group at most: what a reader that wants one image must read."""
GROUP_BYTES: Final = 32 << 20
"""Bytes of images after which a row group is closed; all of it is in memory."""

CARD: Final = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

# Generated images

{images:,} images with the prompts and the options that they were generated with.
"""
"""The README.md by which ``datasets.load_dataset`` and the Hub find the files."""

_IMAGE: Final = "image"
_INT64 = range(-(2**63), 2**63)


@attrs.define
class Columns:
    """What the columns of all rows hold, by name, in the order of their first appearance."""

    _kinds: dict[str, set[str]] = attrs.field(factory=dict)

    def see(self, row: Mapping[str, Any]) -> None:
        """Take note of the values of a row."""
        for name, value in row.items():
            kinds = self._kinds.setdefault(name, set())
            if value is not None:
                kinds.add(_kind(value))

    def types(self) -> dict[str, str]:
        """Return the Arrow type of each column; a mixture is text, and so is what is nested."""
        return {name: _common(kinds) for name, kinds in self._kinds.items()}


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if value in _INT64 else "json"
    return {float: "double", str: "string"}.get(type(value), "json")


def _common(kinds: set[str]) -> str:
    if not kinds:
        return "null"
    if kinds == {"int64", "double"}:
        return "double"
    return next(iter(kinds)) if len(kinds) == 1 and "json" not in kinds else "string"


def arrow() -> Any:
    """Return the modules of pyarrow.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise ConfigurationError(
            "Parquet needs pyarrow: pip install 'imagen-async[parquet]'"
        ) from None


class ParquetShard:
    """One Parquet file.

    Args:
        path: Of the file, which is made.
        types: The Arrow type of each column.
    """

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        self._pa = pa = arrow()
        self._types = types
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = [
            (name, pa.type_for_alias(kind))
            for name, kind in zip(_names(types), types.values(), strict=True)
        ]
        features = {"info": {"features": {_IMAGE: {"_type": "Image"}}}}
        self._schema = pa.schema(
            [(_IMAGE, image), *columns], metadata={"huggingface": json.dumps(features)}
        )
        self._rows: list[dict[str, Any]] = []
        self._images = bytearray()
        self._ends = [0]
        self._writer = pa.parquet.ParquetWriter(
            path,
            self._schema,
            # Images do not compress further, and have neither an order nor repetitions.
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            # The size of a page is looked at after so many values, and it is made in memory.
            write_batch_size=1,
        )

    def add(self, key: str, row: dict[str, Any], image: memoryview, suffix: str) -> None:  # noqa: ARG002
        """Add a row."""
        start, end = self._ends[-1], self._ends[-1] + len(image)
        # The buffer is used again: memory fresh from the system costs more than the copy.
        self._images.extend(bytes(max(0, end - len(self._images))))
        self._images[start:end] = image
        self._ends.append(end)
        self._rows.append(row)
        if len(self._rows) >= GROUP_ROWS or end >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what waits and end the file."""
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        pa = self._pa
        buffers = [None, pa.py_buffer(array("i", self._ends)), pa.py_buffer(self._images)]
        images = pa.BinaryArray.from_buffers(pa.binary(), len(self._rows), buffers)
        paths = pa.array([_text(row["file_name"]) for row in self._rows], pa.string())
        arrays = [pa.StructArray.from_arrays([images, paths], fields=list(self._schema[0].type))]
        for (name, kind), field in zip(self._types.items(), list(self._schema)[1:], strict=True):
            values = [_value(row.get(name), kind) for row in self._rows]
            arrays.append(pa.array(values, field.type))
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows.clear()
        del self._ends[1:]


def _names(types: Mapping[str, str]) -> list[str]:
    """Return the columns' names: none twice, and none that of the images."""
    names = [_IMAGE]
    for name in map(_text, types):
        names.append(next(f"{name}{'_' * n}" for n in count() if f"{name}{'_' * n}" not in names))
    return names[1:]


def _value(value: Any, kind: str) -> object:
    if value is None or kind not in {"double", "string"}:
        return value
    if kind == "double":
        return float(value)
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _text(text: str) -> str:
    """Return a text without lone surrogates, which Arrow cannot hold."""
    return text.encode("utf-8", "replace").decode()
