"""What the journal keeps, as values; one converter turns them into its JSON and back.

The JSON is that of the journal's version (``schema.VERSION``), which rises when it changes. A
field that this package does not know is refused: to pass over it might lose what it says of money.
"""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003 - cattrs reads the types of the fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import cattrs
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn, override

from imagen_async.batch.states import State
from imagen_async.errors import Charge, ConfigurationError, ImagenError
from imagen_async.wire.image import Image
from imagen_async.wire.request import GenerationRequest, request_fields
from imagen_async.wire.short_repr import link_repr

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_T = TypeVar("_T")


@attrs.frozen
class RequestRow:
    """A row that can be an input again.

    Args:
        request: What was asked, the run's defaults filled in.
        id: The user's own name of the row.
        columns: The user's own columns.
    """

    request: GenerationRequest
    id: str | None = None
    columns: Mapping[str, Any] = attrs.field(factory=dict, hash=False)

    @cached_property
    def json(self) -> str:
        """As the journal keeps it, which is told it at two steps of an item or more."""
        return encode(self)


@attrs.frozen(kw_only=True)
class KeptError:
    """What is kept of an error: nothing that could hold a secret. See ImagenError."""

    type: str
    message: str = ""
    status: int | None = None
    code: str | None = None
    charge: Charge = Charge.MAYBE
    idempotency_key: str | None = None
    request_id: str | None = None

    @classmethod
    def of(cls, error: ImagenError) -> KeptError:
        """Return what is kept of an error."""
        return cls(
            type=type(error).__name__,
            message=error.message,
            status=error.status,
            code=error.code,
            charge=error.charge,
            idempotency_key=error.idempotency_key,
            request_id=error.request_id,
        )


@attrs.frozen(kw_only=True)
class KeptImage:
    """An image: its file, or the link that it waits behind.

    Args:
        file_name: Relative to the run's folder; None if it is no file here.
        width: Pixels.
        height: Pixels.
        media_type: Such as ``image/png``.
        bytes: The file's size.
        sha256: Of the file's bytes, in hexadecimal.
        url: The gateway's link.
        revised_prompt: The prompt as the gateway changed it.
    """

    file_name: str | None = None
    width: int | None = None
    height: int | None = None
    media_type: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    url: str | None = attrs.field(default=None, repr=link_repr)
    revised_prompt: str | None = None

    def image(self, folder: Path) -> Image:
        """Return the image of a run in this folder."""
        return Image(
            url=self.url,
            path=None if self.file_name is None else folder / self.file_name,
            media_type=self.media_type,
            width=self.width,
            height=self.height,
            revised_prompt=self.revised_prompt,
        )


@attrs.frozen(kw_only=True)
class KeptTask:
    """A task whose images are still to be collected; see Task.

    Args:
        id: The gateway's name of it.
        url: Where it said to ask.
        charge: The item's charge without it, which counts if it fails and cost nothing.
    """

    id: str
    url: str | None = attrs.field(default=None, repr=link_repr)
    charge: Charge = Charge.MAYBE


@attrs.frozen(kw_only=True)
class KeptAnswer:
    """What came of an item.

    Args:
        request_id: The gateway's id of its last answer.
        created: The gateway's time of creation, Unix seconds.
        problems: Notes on what is odd.
        after: What the numbers of the last answer's files come after.
        images: Those of the last answer in its order, then the files of earlier ones.
        task: Where the last answer's images are to be collected; None once they came.
    """

    request_id: str | None = None
    created: int | None = None
    problems: tuple[str, ...] = ()
    after: int = 0
    images: tuple[KeptImage, ...] = ()
    task: KeptTask | None = None

    @property
    def files(self) -> dict[str, KeptImage]:
        """The images that are files here, by name."""
        return {each.file_name: each for each in self.images if each.file_name is not None}


@attrs.frozen
class RefusedRow:
    """A row of the input that is no request, or that may not be sent.

    Args:
        line: Where it stands, counted from 1.
        id: The user's own name of it.
        request: What it asks; None if it is no request.
        error: What is wrong.
        columns: The user's own columns.
    """

    line: int
    id: str | None
    request: GenerationRequest | None
    error: KeptError
    columns: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.define
class Item:
    """One item as it stands: not frozen, for its recorder moves it at every step.

    Args:
        id: 16 bytes: what the row asks for and its number among equal rows.
        position: Where it stood in the input when it was last sent, from 0.
        row: What is asked.
        state: Where it stands.
        charge: The worst over all its attempts in all runs.
        attempts: How many HTTP exchanges were begun for it.
        sends: How often its body went out and was answered by neither a 429 nor the API's own
            refusal, since its count began.
        spent: How many images may have been charged for it.
        presumed: How many images those sends asked for that were taken as free.
        resends: How often it was sent again although it may have been charged.
        images: How many files of it are here.
        idempotency_key: What its last attempts carried.
        sent_at: When its last attempt was begun, Unix seconds.
        cost: What the gateway said that its answers cost, in units of 1e-10 US dollars.
        cost_images: How many images it said that of.
        error: The last error.
        answer: What came.
    """

    id: bytes
    position: int
    row: RequestRow
    state: State = State.NEW
    charge: Charge = Charge.NO
    attempts: int = 0
    sends: int = 0
    spent: int = 0
    presumed: int = 0
    resends: int = 0
    images: int = 0
    idempotency_key: str | None = None
    sent_at: float | None = None
    cost: int = 0
    cost_images: int = 0
    error: KeptError | None = None
    answer: KeptAnswer | None = None

    @property
    def digits(self) -> str:
        """Twelve hexadecimal digits that its files are named by."""
        return self.id[:6].hex()

    @property
    def files(self) -> dict[str, KeptImage]:
        """The images that are files here, by name."""
        return {} if self.answer is None else self.answer.files

    def answer_with(self, images: Iterable[KeptImage]) -> KeptAnswer:
        """Return the answer with these images and, behind them, its other files."""
        images = self.with_older(images)
        return (
            KeptAnswer(images=images)
            if self.answer is None
            else attrs.evolve(self.answer, images=images)
        )

    def with_older(self, images: Iterable[KeptImage]) -> tuple[KeptImage, ...]:
        """Return images and, behind them, the item's files that are not among them."""
        now = tuple(images)
        if self.answer is None:
            return now
        names = {each.file_name for each in now}
        return (*now, *(each for name, each in self.files.items() if name not in names))


@attrs.frozen
class Count:
    """How many items are in one state with one charge, and sums over them."""

    state: State
    charge: Charge
    items: int
    attempts: int
    spent: int
    presumed: int
    resends: int
    images: int
    cost: int = 0
    cost_images: int = 0


def images_requested(request: GenerationRequest) -> int:
    """Return how many images a request buys, at least; as far as the journal can count."""
    n = request.n if request.n is not None else request.extra.get("n")
    return min(n, 2**31) if isinstance(n, int) and n > 0 else 1


def unstructured(record: object) -> Mapping[str, Any]:
    """Return a record as JSON values, in the order of its JSON."""
    fields: Mapping[str, Any] = _converter.unstructure(record)
    return fields


def encode(record: object) -> str:
    """Return a record as ASCII JSON."""
    return _JSON.encode(_converter.unstructure(record))


def decode(text: str, kind: type[_T]) -> _T:
    """Return the record that a JSON text holds.

    Raises:
        ConfigurationError: If it holds another one, or fields that this package does not know.
    """
    try:
        return _converter.structure(json.loads(text), kind)
    except Exception as error:  # noqa: BLE001 - damage may show as anything; it is not repeated
        raise ConfigurationError(
            f"The journal holds a {kind.__name__} that this package cannot read "
            f"({type(error).__name__}); upgrade imagen-async, or restore it from a backup."
        ) from None


def _row_out(row: RequestRow) -> Mapping[str, Any]:
    fields = request_fields(row.request)
    if row.columns:
        fields = {**fields, "columns": row.columns}
    return fields if row.id is None else {"id": row.id, **fields}


def _row_in(fields: Mapping[str, Any], _: object) -> RequestRow:
    asked = dict(fields)
    name, columns = asked.pop("id", None), asked.pop("columns", None)
    return RequestRow(GenerationRequest(**asked), name, columns or {})


def _refused_out(row: RefusedRow) -> Mapping[str, Any]:
    error = _converter.unstructure(row.error)
    own = {"columns": row.columns} if row.columns else {}
    asked = {**request_fields(row.request), **own}
    return {"line": row.line, "id": row.id, **asked, "error": error}


def _refused_in(fields: Mapping[str, Any], _: object) -> RefusedRow:
    asked = dict(fields)
    line, name, columns = asked.pop("line"), asked.pop("id"), asked.pop("columns", {})
    error = _converter.structure(asked.pop("error"), KeptError)
    request = GenerationRequest(**asked) if asked else None
    return RefusedRow(line=line, id=name, request=request, error=error, columns=columns)


_PLAIN = (int, str, int | None, str | None)


def _make_converter() -> cattrs.Converter:
    made = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    # JSON has these itself: a call for each field would only cost time.
    made.register_structure_hook_func(_PLAIN.__contains__, lambda value, _: value)
    made.register_unstructure_hook_func((*_PLAIN, tuple[str, ...]).__contains__, identity)
    made.register_unstructure_hook(RequestRow, _row_out)
    made.register_structure_hook(RequestRow, _row_in)
    made.register_unstructure_hook(RefusedRow, _refused_out)
    made.register_structure_hook(RefusedRow, _refused_in)
    # Its own way through a tuple looks at each value's type again: a third of an item's price.
    image_of = made.get_structure_hook(KeptImage)
    made.register_structure_hook_func(
        lambda kind: kind == tuple[KeptImage, ...],
        lambda values, _: tuple([image_of(value, KeptImage) for value in values]),
    )
    as_file = make_dict_unstructure_fn(KeptImage, made)
    made.register_unstructure_hook(
        KeptImage,
        lambda image: (
            {"url": image.url, "revised_prompt": image.revised_prompt}
            if image.file_name is None
            else as_file(image)
        ),
    )
    # Last: it takes over the hook of its images.
    made.register_unstructure_hook(
        KeptAnswer, make_dict_unstructure_fn(KeptAnswer, made, task=override(omit_if_default=True))
    )
    return made


_JSON = json.JSONEncoder(separators=(",", ":"), default=str)
_converter = _make_converter()
