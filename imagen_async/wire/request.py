"""The request: the fields of the gateway's page, and its JSON body."""

from __future__ import annotations

import enum
import json
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from imagen_async.errors import InvalidRequestError
from imagen_async.wire.short_repr import short_repr
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_E = TypeVar("_E", bound=enum.StrEnum)


class AspectRatio(enum.StrEnum):
    """The five ratios of the gateway's page."""

    SQUARE = "1:1"
    PORTRAIT_3_4 = "3:4"
    LANDSCAPE_4_3 = "4:3"
    PORTRAIT_9_16 = "9:16"
    LANDSCAPE_16_9 = "16:9"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the page lists them."""
        return _SIZES[self]


_SIZES = {
    AspectRatio.SQUARE: (1024, 1024),
    AspectRatio.PORTRAIT_3_4: (896, 1280),
    AspectRatio.LANDSCAPE_4_3: (1280, 896),
    AspectRatio.PORTRAIT_9_16: (768, 1408),
    AspectRatio.LANDSCAPE_16_9: (1408, 768),
}


class ResponseFormat(enum.StrEnum):
    """How the image comes back: as a link, or inside the answer."""

    URL = "url"
    B64_JSON = "b64_json"


_RATIOS = {ratio.value: ratio for ratio in AspectRatio}
_FORMATS = {form.value: form for form in ResponseFormat}


def _ratio(value: AspectRatio | str | None) -> AspectRatio | None:
    return None if value is None else _member(_RATIOS, "aspect_ratio", value)


def _format(value: ResponseFormat | str | None) -> ResponseFormat | None:
    return None if value is None else _member(_FORMATS, "response_format", value)


def _member(allowed: Mapping[str, _E], field: str, value: str) -> _E:
    try:
        return allowed[value]
    except (KeyError, TypeError):
        raise InvalidRequestError(
            f"{field} {printable(repr(value), 80)} is not one of {', '.join(allowed)}; "
            f"to send another value, put it into extra={{{field!r}: ...}}."
        ) from None


def _check_prompt(_: object, __: object, prompt: Any) -> None:
    if not isinstance(prompt, str):
        raise InvalidRequestError(f"prompt must be a str, not {type(prompt).__name__}.")
    if not prompt.strip():
        raise InvalidRequestError("prompt is empty; say what the image shows.")


def _check_model(_: object, __: object, model: Any) -> None:
    if model is not None and (not isinstance(model, str) or not model.strip()):
        raise InvalidRequestError("model must be a non-empty str, such as 'imagen4', or None.")


def _check_n(_: object, __: object, n: Any) -> None:
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or not 1 <= n < 2**31):
        raise InvalidRequestError("n must be a whole number of images, 1 or more, below 2**31.")


def unknown_field(name: str, value: object) -> InvalidRequestError:
    """Return the error for a field that only a gateway knows, with the way to send it."""
    shown = printable(repr({name: value}), 200)
    return InvalidRequestError(
        f"{printable(name)} is no field that every gateway knows; send it as extra={shown}."
    )


def _mapping(value: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        copied = dict(value) if value else {}
    except (TypeError, ValueError):
        raise InvalidRequestError("extra must map field names to JSON values.") from None
    if copied and not all(isinstance(key, str) for key in copied):
        raise InvalidRequestError("extra must have str keys: the names of the gateway's fields.")
    return copied


@attrs.frozen
class GenerationRequest:
    """One order for images.

    Only what is set is sent: gateways refuse or ignore fields they do not know.

    Args:
        prompt: What the image shows.
        model: The gateway's name of a model.
        aspect_ratio: One of the page's five ratios.
        response_format: Whether the answer carries a link or the image itself.
        n: How many images; gateways have defaults of their own, from 1 to 4.
        extra: Fields merged last into the body, for what a gateway knows and this class does not.

    Raises:
        InvalidRequestError: If a value cannot be sent; its text names the allowed ones.
    """

    prompt: str = attrs.field(validator=_check_prompt)
    model: str | None = attrs.field(default=None, kw_only=True, validator=_check_model)
    aspect_ratio: AspectRatio | None = attrs.field(default=None, kw_only=True, converter=_ratio)
    response_format: ResponseFormat | None = attrs.field(
        default=None, kw_only=True, converter=_format
    )
    n: int | None = attrs.field(default=None, kw_only=True, validator=_check_n)
    extra: Mapping[str, Any] = attrs.field(
        factory=dict, kw_only=True, converter=_mapping, hash=False
    )
    __repr__ = short_repr

    def body(self) -> dict[str, Any]:
        """Return the JSON body as a mapping: what was set, then ``extra``."""
        body: dict[str, Any] = {"model": self.model} if self.model is not None else {}
        body["prompt"] = self.prompt
        for name in ("response_format", "aspect_ratio", "n"):
            value = getattr(self, name)
            if value is not None:
                body[name] = value
        body.update(self.extra)
        return body

    def encode(self) -> bytes:
        """Return the body's bytes, ASCII JSON; every attempt sends these same bytes.

        Raises:
            InvalidRequestError: If ``extra`` holds what JSON cannot.
        """
        if not self.extra:
            # The encoder's bytes: its walk through values of any kind would take thrice as long.
            fields = [
                f'"{name}":{int.__repr__(value) if name == "n" else _quoted(value)}'
                for name, value in self.body().items()
            ]
            return f"{{{','.join(fields)}}}".encode("ascii")
        try:
            return _ENCODER.encode(self.body()).encode("ascii")
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequestError("extra holds a value that JSON cannot carry.") from None


REQUEST_FIELDS = tuple(field.name for field in attrs.fields(GenerationRequest))
"""The names of a request's fields, as rows of an input have them too."""


def request_fields(request: GenerationRequest | None) -> Mapping[str, Any]:
    """Return the fields that a request sets, as JSON values."""
    return {
        name: value
        for name in REQUEST_FIELDS
        if (value := getattr(request, name, None)) is not None and (value or name != "extra")
    }


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
