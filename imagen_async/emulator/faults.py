"""What can go wrong, as a table, and the plan that says when it does.

A fault's text is its name, or ``name:argument``. The plan is pure: the same rules and seed
give the same faults to the same requests.
"""

from __future__ import annotations

import enum
import hashlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Stage(enum.Enum):
    """Where a fault strikes."""

    BEFORE = "before generation, uncharged"
    AFTER = "after generation, charged, the answer is lost or a front's error page"
    BODY = "after generation, charged, the answer is odd"
    FILE = "when an image's link is fetched"


@attrs.frozen
class FaultKind:
    """One row of the table.

    Args:
        stage: Where it strikes.
        text: What it does, one line.
        argument: What follows the colon if the text names nothing; empty for no argument.
    """

    stage: Stage
    text: str
    argument: str = ""


_B, _A, _Y, _F = Stage.BEFORE, Stage.AFTER, Stage.BODY, Stage.FILE

KINDS: Mapping[str, FaultKind] = {
    "accept_then_close": FaultKind(_B, "the connection is closed without an answer"),
    "429": FaultKind(_B, "too many requests, in the dialect's words"),
    "429_empty": FaultKind(_B, "too many requests, with an empty body"),
    "retry_after": FaultKind(_B, "429 with Retry-After; retry_after:<seconds or HTTP date>", "1"),
    "503": FaultKind(_B, "the upstream is overloaded"),
    "503_queue": FaultKind(_B, "the image queue is full"),
    "500": FaultKind(_B, "an internal error"),
    "500_sensitive": FaultKind(_B, "sensitive words, refused with a 500"),
    "400": FaultKind(_B, "the safety system rejects the prompt"),
    "401": FaultKind(_B, "the key is invalid"),
    "402": FaultKind(_B, "payment is required"),
    "403_quota": FaultKind(_B, "the account's quota is not enough"),
    "no_channel": FaultKind(_B, "503: no channel serves the model; permanent"),
    "status": FaultKind(_B, "any status with the dialect's error; status:<code>", "418"),
    "error_in_200": FaultKind(
        _B, "200 with an error object; error_in_200:<code>", "content_policy_violation"
    ),
    "html": FaultKind(_B, "200 with the web site's index page"),
    "redirect_307": FaultKind(_B, "307 to the same endpoint; a client that follows posts twice"),
    "drop": FaultKind(_A, "the connection is closed without an answer"),
    "reset": FaultKind(_A, "the connection is reset without an answer"),
    "stall": FaultKind(_A, "no answer ever comes, and the connection stays open"),
    "502": FaultKind(_A, "the front's 502 page"),
    "504": FaultKind(_A, "the front's 504 page"),
    "524": FaultKind(_A, "524 with retryable: true, which is a lie"),
    "cut": FaultKind(_A, "a body shorter than its Content-Length; cut:<bytes sent>", "50"),
    "cut_chunked": FaultKind(_A, "a chunked body without its end; cut_chunked:<bytes sent>", "50"),
    "cut_silent": FaultKind(_A, "a body cut where closing is its end; cut_silent:<bytes>", "50"),
    "stall_body": FaultKind(_A, "a body that stops coming; stall_body:<bytes sent>", "50"),
    "data_empty": FaultKind(_Y, "data is an empty array"),
    "data_null": FaultKind(_Y, "data is null"),
    "data_missing": FaultKind(_Y, "there is no data"),
    "item_null": FaultKind(_Y, "the first item has neither url nor b64_json"),
    "partial": FaultKind(_Y, "fewer images than asked; partial:<images>", "1"),
    "more": FaultKind(_Y, "one image more than asked"),
    "wrong_format": FaultKind(_Y, "b64_json where a url was asked, and the reverse"),
    "url_datauri": FaultKind(_Y, "url holds a data: URI"),
    "url_relative": FaultKind(_Y, "url is relative to base_url's origin"),
    "url_path": FaultKind(_Y, "url is a path on the server's disk"),
    "b64_prefix": FaultKind(_Y, "b64_json begins with data:image/png;base64,"),
    "b64_newlines": FaultKind(_Y, "b64_json is broken into lines"),
    "b64_unpadded": FaultKind(_Y, "b64_json lacks its padding"),
    "b64_urlsafe": FaultKind(_Y, "b64_json is in the URL-safe alphabet"),
    "b64_garbage": FaultKind(_Y, "b64_json is not base64"),
    "not_an_image": FaultKind(_Y, "the image's bytes are text"),
    "svg": FaultKind(_Y, "the image is an SVG drawing"),
    "pdf": FaultKind(_Y, "the image is a PDF"),
    "junk": FaultKind(_Y, "the image's bytes are binary and of no known kind"),
    "wrong_size": FaultKind(_Y, "the image has other pixels than asked"),
    "two_json": FaultKind(_Y, "a second JSON document follows the first"),
    "bom": FaultKind(_Y, "the body begins with a byte order mark"),
    "ws_keepalive": FaultKind(_Y, "blanks dribble before the JSON; ws_keepalive:<count>", "5"),
    "sse": FaultKind(_Y, "server-sent events instead of JSON"),
    "ct_text_plain": FaultKind(_Y, "JSON labelled text/plain"),
    "gzip": FaultKind(_Y, "the body is compressed"),
    "task_id_202": FaultKind(_Y, "202 with a task to poll instead of images"),
    "task_failed": FaultKind(_Y, "with tasks: the task ends as failed, its charge is given back"),
    "task_lost": FaultKind(_Y, "with tasks: the task is 404 when it is polled, and charged"),
    "file_404_first": FaultKind(_F, "404 at first; file_404_first:<times>", "1"),
    "file_503_first": FaultKind(_F, "503 at first; file_503_first:<times>", "1"),
    "file_expired": FaultKind(_F, "403: the signature has expired"),
    "file_truncated": FaultKind(_F, "fewer bytes than the Content-Length"),
    "file_drop": FaultKind(_F, "the connection is closed without an answer"),
    "file_stall": FaultKind(_F, "the body stops coming half-way"),
    "file_html": FaultKind(_F, "200 with a web page"),
    "file_redirect": FaultKind(_F, "302 to another link of the same image"),
}
"""Every fault by its name."""

WORDS: Mapping[str, str] = {
    "429": "rate",
    "503": "overloaded",
    "503_queue": "queue",
    "500": "internal",
    "500_sensitive": "sensitive",
    "400": "moderation",
    "401": "bad_key",
    "402": "payment",
    "403_quota": "quota",
    "no_channel": "no_channel",
}
"""Faults that are a trouble in the dialect's words."""

STATUSES = {"403_quota": 403, "no_channel": 503}
"""Faults whose name promises a status that a dialect would change."""


FAULTS: Mapping[str, str] = {
    name: f"{kind.text} ({kind.stage.name.lower()})" for name, kind in KINDS.items()
}
"""Fault names with a line on each, for help texts."""

FAULT_HEADER = "x-emulator-fault"
"""The request header that brings a fault down on its own request."""


@attrs.frozen
class Fault:
    """One fault with its argument."""

    name: str
    argument: str = ""

    @property
    def stage(self) -> Stage:
        """Where it strikes."""
        return KINDS[self.name].stage

    @property
    def text(self) -> str:
        """The fault as ``parse`` reads it."""
        return f"{self.name}:{self.argument}" if self.argument else self.name

    @property
    def number(self) -> int:
        """The argument as a whole number."""
        return int(self.argument)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``name`` or ``name:argument``.

        Raises:
            ValueError: If there is no such fault, or its argument is not the number it takes.
        """
        if not isinstance(text, str):
            raise ValueError(f"A fault is a text, not {type(text).__name__}.")  # noqa: TRY004
        name, colon, argument = text.strip().partition(":")
        kind = KINDS.get(name)
        if kind is None:
            raise ValueError(f"{name!r} is no fault; the faults are {', '.join(KINDS)}.")
        if colon and not kind.argument:
            raise ValueError(f"{name} takes no argument.")
        argument = argument.strip() or kind.argument
        if not (argument.isascii() and argument.isprintable()):
            raise ValueError(f"{name} takes printable ASCII.")  # it may end up in a header
        counted = kind.argument.isdecimal() and name != "retry_after"
        if counted and not argument.isdecimal():
            raise ValueError(f"{name} takes a whole number, not {argument!r}.")
        if name == "status" and not 300 <= int(argument) <= 999:
            raise ValueError(f"status takes a code from 300 to 999, not {argument}.")
        return cls(name, argument)


def _check_fault(_: object, __: object, text: str) -> None:
    Fault.parse(text)


PATTERN_LIMIT = 100
"""Characters of a pattern: what a match may cost grows with it, and all else waits meanwhile."""

_text = attrs.validators.optional(attrs.validators.instance_of(str))
_glob = attrs.validators.optional(
    attrs.validators.and_(
        attrs.validators.instance_of(str), attrs.validators.max_len(PATTERN_LIMIT)
    )
)


@attrs.frozen(kw_only=True)
class FaultRule:
    """When a fault strikes; every condition that is set must hold.

    Args:
        fault: ``name`` or ``name:argument``.
        prompt: A substring of the prompt.
        pattern: The whole prompt's shape: ``*`` is any text, ``?`` one character, ``[ab]`` one of
            these; capitals count. At most 100 characters.
        key: The caller's API key.
        number: The request's number, counted from 1.
        probability: From 0 to 1; the plan's seed and the request's number decide.
        times: How often at most; None for always.

    Raises:
        ValueError: If a value is out of range, or there is no such fault.
    """

    fault: str = attrs.field(validator=_check_fault)
    prompt: str | None = attrs.field(default=None, validator=_text)
    pattern: str | None = attrs.field(default=None, validator=_glob)
    key: str | None = attrs.field(default=None, validator=_text)
    number: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(int))
    )
    probability: float = attrs.field(
        default=1.0, validator=[attrs.validators.ge(0), attrs.validators.le(1)]
    )
    times: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )

    def matches(self, number: int, prompt: str, key: str) -> bool:
        """Return whether the rule's conditions hold; chance is not asked."""
        return (
            (self.number is None or self.number == number)
            and (self.key is None or self.key == key)
            and (self.prompt is None or self.prompt in prompt)
            and (self.pattern is None or fnmatchcase(prompt, self.pattern))
        )


def as_rule(value: FaultRule | str | Mapping[str, Any]) -> FaultRule:
    """Return a rule from a rule, a fault's text, or a mapping of the rule's fields.

    Raises:
        ValueError: If it makes no rule.
    """
    if isinstance(value, FaultRule):
        return value
    if isinstance(value, str):
        return FaultRule(fault=value)
    try:
        return FaultRule(**value)
    except TypeError as error:
        names = ", ".join(field.name for field in attrs.fields(FaultRule))
        raise ValueError(f"A fault rule has the fields {names}: {error}.") from None


class FaultPlan:
    """The rules in force; those with ``times`` go before those without, each in its order.

    Args:
        rules: Rules, fault texts or mappings of a rule's fields.
        seed: Decides the throws of ``probability``.
    """

    def __init__(
        self, rules: Iterable[FaultRule | str | Mapping[str, Any]] = (), seed: int = 0
    ) -> None:
        self._seed = seed
        self.rules: list[FaultRule] = []
        """The rules still in force, ``times`` being what is left of it."""
        for rule in rules:
            self.add(rule)

    def add(self, value: FaultRule | str | Mapping[str, Any]) -> None:
        """Add a rule after the others of its kind.

        Raises:
            ValueError: If it makes no rule.
        """
        self.rules.append(as_rule(value))
        self.rules.sort(key=lambda rule: rule.times is None)

    def clear(self) -> None:
        """Drop every rule."""
        self.rules.clear()

    def strike(self, number: int, prompt: str, key: str, *, file: bool = False) -> Fault | None:
        """Return the fault of a request, and count it.

        Args:
            number: The request's number, counted from 1.
            prompt: Its prompt; empty if it had none.
            key: The caller's API key; empty if there was none.
            file: Ask for the faults of image links instead of those of the answer.
        """
        for index, rule in enumerate(self.rules):
            fault = Fault.parse(rule.fault)
            if (fault.stage is Stage.FILE) is not file or not rule.matches(number, prompt, key):
                continue
            if rule.probability < 1 and chance(self._seed, rule.fault, number) >= rule.probability:
                continue
            if rule.times is not None:
                left = [attrs.evolve(rule, times=rule.times - 1)] if rule.times > 1 else []
                self.rules[index : index + 1] = left
            return fault
        return None


def chance(seed: int, name: str, number: int) -> float:
    """Return a number from 0 to 1, below 1, that is always the same for the same arguments."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
