"""What a run asks for in rows that do not say it themselves, and what a change of it would buy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.errors import ConfigurationError
from imagen_async.wire.request import REQUEST_FIELDS, GenerationRequest
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELDS = tuple(name for name in REQUEST_FIELDS if name not in ("prompt", "extra"))
_BOUGHT = tuple(name for name in REQUEST_FIELDS if name not in ("prompt", "response_format"))
"""The fields that decide what is bought; how the image comes back is not among them."""


@attrs.frozen
class Defaults:
    """Fields of a request, for the rows of a run that leave them out.

    Args:
        template: A request that carries them; its prompt counts for nothing.
    """

    template: GenerationRequest

    def fill(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request with the defaults filled in; ``extra`` is merged."""
        found = {
            name: value
            for name in _FIELDS
            if getattr(request, name) is None
            and (value := getattr(self.template, name)) is not None
        }
        if self.template.extra:
            found["extra"] = {**self.template.extra, **request.extra}
        return attrs.evolve(request, **found) if found else request


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


def changes(old: GenerationRequest, new: GenerationRequest) -> list[str]:
    """Return in words what differs between two runs' defaults and decides what is bought."""
    before, after = _terms(old), _terms(new)
    return [
        f"{name} was {_shown(before.get(name))} and is {_shown(after.get(name))}"
        for name in _BOUGHT
        if before.get(name) != after.get(name)
    ]


def asked_anew(
    request: GenerationRequest, old: GenerationRequest, new: GenerationRequest
) -> GenerationRequest | None:
    """Return a request as other defaults would have it; None if they would change nothing.

    Args:
        request: As it was ordered.
        old: The defaults that it was ordered with.
        new: The other defaults.
    """
    before, after, was = _terms(old), _terms(new), _terms(request)
    now = {
        name: (after if was.get(name) == before.get(name) else was).get(name) for name in _BOUGHT
    }
    given, extra = old.extra, request.extra
    own = {key: extra[key] for key in extra if key not in given or given[key] != extra[key]}
    now["extra"] = {**new.extra, **own}
    anew = GenerationRequest(request.prompt, **now)
    return None if _terms(anew) == was else anew


def _terms(request: GenerationRequest) -> Mapping[str, Any]:
    """Return the fields that decide what is bought, each difference in spelling gone."""
    return {
        name: value
        for name in _BOUGHT
        if (value := getattr(request, name)) and (name, value) != ("n", 1)
    }


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return printable(repr(str(value) if isinstance(value, str) else value), 100)
