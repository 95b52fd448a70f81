"""Limits, timeouts and secrets: the values a client is made of."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import attrs

from imagen_async.errors import ConfigurationError
from imagen_async.wire.text import printable

MIB = 1024 * 1024


def positive(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Validate a number above 0 that a float can hold: an attrs validator."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        _refuse(instance, attribute, "a number above 0", value)


def count(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Validate a whole number, 1 or more: an attrs validator."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse(instance, attribute, "a whole number, 1 or more", value)


def flag(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Validate True or False and nothing that merely counts as such: an attrs validator."""
    if not isinstance(value, bool):
        _refuse(instance, attribute, "True or False", value)


def _refuse(instance: object, attribute: attrs.Attribute[Any], wanted: str, value: Any) -> NoReturn:
    name = f"{type(instance).__name__}.{attribute.name}"
    raise ConfigurationError(f"{name} must be {wanted}, not {printable(repr(value), 80)}.")


@attrs.frozen(kw_only=True)
class Limits:
    """How much may happen at once.

    Args:
        concurrency: Requests in flight; the others queue, first come, first served.
        requests_per_minute: The steady rate of requests; None for no limit.
        burst: Requests that may go at once after a pause; 1 spaces them evenly.
        max_image_bytes: The largest image taken, in bytes.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    concurrency: int = attrs.field(default=8, validator=count)
    requests_per_minute: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(positive)
    )
    burst: int = attrs.field(default=1, validator=count)
    max_image_bytes: int = attrs.field(default=64 * MIB, validator=count)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long to wait, in seconds of the monotonic clock.

    Args:
        total: A whole call: its attempts, waits and downloads; in ``generate`` the queue too.
        connect: Name lookup, TCP and TLS of one attempt.
        answer: One attempt, from its start to the answer's last byte; most gateways charge for an
            image that was not waited for, and a large one may take minutes.
        stall: A download without a new byte.

    Raises:
        ConfigurationError: If a value is not a number above 0.
    """

    total: float = attrs.field(default=900.0, validator=positive)
    connect: float = attrs.field(default=10.0, validator=positive)
    answer: float = attrs.field(default=600.0, validator=positive)
    stall: float = attrs.field(default=30.0, validator=positive)


class Masked(str):
    """A header's value that tracebacks with locals do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Secret:
    """A text that no repr, format, pickle or ``vars`` shows.

    Args:
        value: Printable ASCII without spaces at its ends, which are trimmed; an HTTP header
            carries nothing else (RFC 9110, section 5.5).

    Raises:
        ConfigurationError: If the value is empty or holds other characters.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        problem = _key_problem(value.strip())
        if problem is not None:
            raise ConfigurationError(problem)  # from a frame that holds no copy of the value
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        # A worker process needs the key; a pickle that must not hold it has no business here.
        raise ConfigurationError("The API key is never pickled; give it to the other process.")


def _key_problem(key: str) -> str | None:
    if not key:
        return "The API key is empty; leave it out or set IMAGEN_API_KEY."
    if not (key.isascii() and key.isprintable()):
        return (
            "The API key holds a line break or a character outside printable ASCII; copy it again."
        )
    return None
