"""What an emulator is set up with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator.dialects import DIALECTS, Dialect
from imagen_async.emulator.faults import FaultRule, as_rule
from imagen_async.emulator.latency import PROFILES
from imagen_async.emulator.requests import FORMATS

if TYPE_CHECKING:
    from imagen_async.emulator.ledger import Exchange

DRAWINGS: Mapping[str, str] = {
    "full": "a picture with the prompt in it (needs Pillow, else plain)",
    "plain": "a gradient of the exact size",
    "tiny": "a 16x16 gradient whatever size was asked: for load tests, not faithful",
}
"""How images are drawn, by name."""

FRONTS = ("nginx", "cloudflare")

CALL_LOGS: Mapping[str, str] = {
    "newapi": "new-api: /api/log/token, the newest rows of the key; keeps its own ids alone",
    "litellm": "LiteLLM: /spend/logs?request_id=, by the caller's x-litellm-call-id",
    "aimlapi": "AIMLAPI: /v2/logs in pages, with the caller's X-Client-Request-Id",
}
"""Logs of calls by name."""

TASKS: Mapping[str, str] = {
    "202": "202 with task_id, status and poll_url",
    "200": "200 with id, status and a data object that holds task_id",
}
"""How an order is answered with a task, by name."""

COSTS: Mapping[str, str] = {
    "aimlapi": "the header x-aimlapi-usd-spent",
    "litellm": "the header x-litellm-response-cost",
    "xai": "usage.cost_in_usd_ticks in the answer",
    "openrouter": "usage.cost in the answer",
}
"""Where an answer tells what it cost, by name."""

_gt, _ge, _le = attrs.validators.gt, attrs.validators.ge, attrs.validators.le
_one_of, _optional = attrs.validators.in_, attrs.validators.optional


def _rules(values: Sequence[FaultRule | str | Mapping[str, Any]]) -> tuple[FaultRule, ...]:
    if isinstance(values, (str, Mapping, FaultRule)):
        values = (values,)
    return tuple(as_rule(value) for value in values)


@attrs.frozen(kw_only=True)
class Settings:
    """An emulator's settings.

    Args:
        host: The address it listens on; keep it on loopback.
        port: The port; 0 takes a free one.
        dialect: One of ``DIALECTS``.
        language: ``en`` or ``zh``: of those errors that have Chinese words.
        profile: One of ``PROFILES``: how long a generation takes.
        latency: Seconds of every generation, in place of the profile.
        time_scale: How fast the emulator's time runs: it divides latencies, ``front_timeout``,
            ``url_ttl`` and the minute of ``rpm``.
        seed: Decides pictures, latencies and faults with a probability.
        draw: One of ``DRAWINGS``.
        image_format: One of ``FORMATS``, unless an order to OpenAI says another; png where it is
            not drawn ``full`` or Pillow is not installed.
        models: Models that have a channel; None takes any.
        keys: API keys that are let in; None asks for none.
        rpm: Requests of a key in a minute; the others get 429.
        concurrency: Generations of a key at once.
        queue: Requests of a key that may wait for a slot; the others get 503.
        balance: Images that each key can pay for; then 403.
        front_timeout: Seconds until the front gives up on a generation, which goes on.
        front: ``nginx``, which answers 504 then, or ``cloudflare``, 524.
        url_ttl: Seconds until an image's link expires.
        faults: Fault rules; see ``FaultRule``.
        honour_idempotency: Answer a repeated ``Idempotency-Key`` with the first answer and no
            second charge, with 409 while that is in the making and 422 if the body is another.
        log_size: Requests kept in ``requests``.
        call_log: One of ``CALL_LOGS``: the log of calls that the gateway shows; None shows none.
        call_log_off: Whether the operator has switched it off: it is there, and writes nothing.
        call_log_limit: Rows of the log that are shown at once, the newest.
        call_log_lateness: Seconds from a request's end until its row appears.
        call_log_strangers: From 0 to 1: how many rows of somebody else with the same key come
            with each of the caller's own.
        clock_skew: Seconds that the log's clock is ahead; its ``Date`` says so.
        tasks: One of ``TASKS``: orders are answered with a task to poll; None with images.
        task_ttl: Seconds for which a task is kept; then it is 404.
        report_cost: One of ``COSTS``; None tells no cost.
        price: What an image costs, in USD.
        on_exchange: Called with each request for images once its answer has left.

    Raises:
        ValueError: If a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=0, validator=[_ge(0), _le(65535)])
    dialect: str = attrs.field(default="page", validator=_one_of(tuple(DIALECTS)))
    language: str = attrs.field(default="en", validator=_one_of(("en", "zh")))
    profile: str = attrs.field(default="instant", validator=_one_of(tuple(PROFILES)))
    latency: float | None = attrs.field(default=None, validator=_optional(_ge(0)))
    time_scale: float = attrs.field(default=1.0, validator=_gt(0))
    seed: int = 0
    draw: str = attrs.field(default="full", validator=_one_of(tuple(DRAWINGS)))
    image_format: str = attrs.field(default="png", validator=_one_of(tuple(FORMATS)))
    models: Collection[str] | None = None
    keys: Collection[str] | None = None
    rpm: int | None = attrs.field(default=None, validator=_optional(_ge(1)))
    concurrency: int | None = attrs.field(default=None, validator=_optional(_ge(1)))
    queue: int = attrs.field(default=8, validator=_ge(0))
    balance: int | None = attrs.field(default=None, validator=_optional(_ge(0)))
    front_timeout: float | None = attrs.field(default=None, validator=_optional(_gt(0)))
    front: str = attrs.field(default="nginx", validator=_one_of(FRONTS))
    url_ttl: float | None = attrs.field(default=None, validator=_optional(_gt(0)))
    faults: tuple[FaultRule, ...] = attrs.field(default=(), converter=_rules)
    honour_idempotency: bool = False
    log_size: int = attrs.field(default=1000, validator=_ge(1))
    call_log: str | None = attrs.field(default=None, validator=_one_of((None, *CALL_LOGS)))
    call_log_off: bool = False
    call_log_limit: int = attrs.field(default=1000, validator=_ge(1))
    call_log_lateness: float = attrs.field(default=0.0, validator=_ge(0))
    call_log_strangers: float = attrs.field(default=0.0, validator=[_ge(0), _le(1)])
    clock_skew: float = 0.0
    tasks: str | None = attrs.field(default=None, validator=_one_of((None, *TASKS)))
    task_ttl: float = attrs.field(default=86_400.0, validator=_gt(0))
    report_cost: str | None = attrs.field(default=None, validator=_one_of((None, *COSTS)))
    price: float = attrs.field(default=0.04, validator=_ge(0))
    on_exchange: Callable[[Exchange], object] | None = None

    @property
    def voice(self) -> Dialect:
        """The dialect as a value that speaks."""
        return Dialect(self.dialect, self.language)

    def seconds_of(self, number: int) -> float:
        """Return how long the generation of a request takes, in seconds of the real clock."""
        if self.latency is not None:
            return self.latency / self.time_scale
        return PROFILES[self.profile].seconds(self.seed, number) / self.time_scale
