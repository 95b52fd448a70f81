"""What a run asks for in rows that do not say it themselves, and what a change of it would buy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.batch.records import request_to_row
from imagen_async.errors import ConfigurationError
from imagen_async.wire.request import GenerationRequest
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELDS = ("model", "aspect_ratio", "n", "response_format")
_BOUGHT = ("model", "aspect_ratio", "n", "extra")
"""The fields that decide what is bought; how the image comes back is not among them."""


@attrs.frozen
class Defaults:
    """Fields of a request, for the rows of a run that leave them out.

    Args:
        template: A request that carries them; its prompt counts for nothing.
    """

    template: GenerationRequest
    _body: dict[str, Any] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.template.body(), takes_self=True)
    )

    def body(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the body of a request with the defaults filled in."""
        if self.template.extra:
            return self.fill(request).body()
        return {**self._body, **request.body()}

    def fill(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request with the defaults filled in; ``extra`` is merged."""
        found: dict[str, Any] = {
            name: value
            for name in _FIELDS
            if getattr(request, name) is None
            and (value := getattr(self.template, name)) is not None
        }
        if self.template.extra:
            found["extra"] = {**self.template.extra, **request.extra}
        return attrs.evolve(request, **found) if found else request

    def kept(self) -> dict[str, Any]:
        """Return the defaults as JSON values."""
        fields = request_to_row(self.template, None)
        del fields["prompt"]
        return fields


def make_defaults(model: str | None, fields: Mapping[str, Any]) -> Defaults:
    """Return the defaults of a run.

    Args:
        model: The client's, if the fields name none.
        fields: By the names that GenerationRequest has for them.

    Raises:
        ConfigurationError: If a name is none of those, or is the prompt.
        InvalidRequestError: If a value cannot be sent.
    """
    unknown = fields.keys() - {*_FIELDS, "extra"}
    if unknown:
        raise ConfigurationError(
            f"defaults cannot hold {printable(repr(min(unknown, key=str)), 80)}; it may hold "
            f"{', '.join(_FIELDS)} and extra."
        )
    given = {name: value for name, value in fields.items() if value is not None}
    template = GenerationRequest("-", **{"model": model, **given})
    template.encode()
    return Defaults(template)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two runs' defaults and decides what is bought."""
    before, after = _terms(old), _terms(new)
    return [
        f"{name} was {_shown(before.get(name))} and is {_shown(after.get(name))}"
        for name in _BOUGHT
        if before.get(name) != after.get(name)
    ]


def asked_anew(
    row: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return a row as other defaults would have it; None if it holds nothing of the old ones.

    Args:
        row: Of the journal.
        old: The defaults that it was ordered with.
        new: The others.
    """
    before, after, was = _terms(old), _terms(new), _terms(row)
    now = {
        name: (after if was.get(name) == before.get(name) else was).get(name) for name in _BOUGHT
    }
    given, extra = before.get("extra", {}), was.get("extra", {})
    own = {key: extra[key] for key in extra if key not in given or given[key] != extra[key]}
    now = _terms({**now, "extra": {**after.get("extra", {}), **own}})
    return None if now == was else {"prompt": row["prompt"], **now}


def _terms(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that decide what is bought, each difference in spelling gone."""
    found = {name: fields[name] for name in _BOUGHT if fields.get(name)}
    if found.get("n") == 1:
        del found["n"]
    return found


def _shown(value: object) -> str:
    return "not set" if value is None else printable(repr(value), 100)
