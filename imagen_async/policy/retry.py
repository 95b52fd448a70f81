"""Whether a call is sent again after an attempt, and when.

What ``decide`` does, first row that fits::

    the attempt ended as              the call                      the gate of the whole client
    --------------------------------  ----------------------------  ----------------------------
    never to be sent again            gives up                      as below
    given up: nothing reached so long gives up                      as below
    charges at max_charges            gives up, but not where       as below
                                      the key is honoured
    sends at max_sends                gives up                      as below
    REFUSED, refusals at the limit    gives up                      closes for the wait
    other, failures at max_attempts   gives up, but not in a batch  as below
                                      whose retry budget is empty
    asked for > retry_after_max       generate: gives up            as below
                                      else waits, at most 1 hour
    the wait does not fit in left     gives up                      as below
    REFUSED                           is sent again                 closes for the wait
    PENDING                           is sent again after the wait  stays as it is
    other, the retry budget empty     generate: gives up            stays as it is
                                      else is sent again            closes for one probe per 5 s
    other                             is sent again after the wait  stays as it is

The wait is the server's own (Retry-After and up to 1 s of jitter), else a backoff with full
jitter. REFUSED costs neither attempts nor budget: nothing was done, and the gate slows everyone.

Where the gateway is known to honour keys, an UNKNOWN, or a SPOILED whose answer was cut, is sent
again under its key, and that is no new purchase. PENDING is an UNKNOWN whose answer says that the
first request under the key is still in the making: that costs neither attempts nor budget, and it
is asked for until no time is left.

``max_sends`` and ``max_refusals`` stand behind every verdict: whatever the table calls free, a
request is bought at most so often by a gateway that charges for it all the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from imagen_async.errors import ConfigurationError, Verdict
from imagen_async.policy.circuit import PROBE_EVERY
from imagen_async.policy.config import count, flag, positive

if TYPE_CHECKING:
    from imagen_async.wire.verdict import Judgement

GENERATE_REFUSALS: Final = 4
"""What ``max_refusals="auto"`` means for a single call."""
BATCH_REFUSALS: Final = 2000
"""And for one that waits: more than a run's patience allows, should they all be free."""

LONGEST_WAIT: Final = 3600.0
"""Seconds; whatever a server asks, it is asked again after this."""


def _refusals(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None or value == "auto":
        return
    try:
        count(instance, attribute, value)
    except ConfigurationError as error:
        raise ConfigurationError(
            f'{error.message} None waits without end; "auto" decides.'
        ) from None


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently a call is sent again.

    Args:
        max_attempts: Attempts that may end as FAILED, NOT_SENT or UNKNOWN, the first included.
        max_refusals: Attempts that the server may turn away before doing any work; None waits
            without end; "auto" is 4 in ``generate``, and 2000 in ``generate_many``, ``batch``.
        max_charges: An attempt is sent only while the charges of this run are below this; an
            attempt that may have been charged counts. 1 never buys an image twice, 2 may.
        max_sends: How often a request's body may go out, in a batch over all its runs; what a 429
            or the API's own refusal in JSON answered does not count.
        server_errors_charged: Whether a 500, 503 or 529 that is not known to come before any work
            may have been charged. False states that the gateway does not charge its failures.
        backoff_base: Seconds; the most that the first wait takes. It doubles with each failure.
        backoff_cap: Seconds; the most that any wait takes that no server asked for.
        retry_after_max: Seconds; ``generate`` raises at once if the server asks for more.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    max_attempts: int = attrs.field(default=4, validator=count)
    max_refusals: int | Literal["auto"] | None = attrs.field(default="auto", validator=_refusals)
    max_charges: int = attrs.field(default=1, validator=count)
    max_sends: int = attrs.field(default=4, validator=count)
    server_errors_charged: bool = attrs.field(default=True, validator=flag)
    backoff_base: float = attrs.field(default=0.5, validator=positive)
    backoff_cap: float = attrs.field(default=20.0, validator=positive)
    retry_after_max: float = attrs.field(default=60.0, validator=positive)


@attrs.frozen
class History:
    """What the attempts of one call came to in this run, the latest included.

    ``sends`` counts those of earlier runs too.

    Args:
        failures: Attempts that ended as FAILED, NOT_SENT or UNKNOWN, but for the pending ones.
        refusals: Attempts that ended as REFUSED.
        charges: Attempts that were or may have been charged.
        sends: Attempts whose body went out, but for those that the API itself turned away.
        pending: Attempts that found the first request under their key still in the making.
    """

    failures: int = 0
    refusals: int = 0
    charges: int = 0
    sends: int = 0
    pending: int = 0

    def alike(self, judgement: Judgement) -> int:
        """Return how many attempts count as one that ended like this does."""
        if judgement.verdict is Verdict.REFUSED:
            return self.refusals
        return self.pending if judgement.pending else self.failures


@attrs.frozen
class Retry:
    """Send the call again.

    Args:
        wait: Seconds.
        closes_gate: Whether the gate closes and does the waiting, for every call; the call
            queues there. Otherwise the call waits alone.
    """

    wait: float
    closes_gate: bool = False


@attrs.frozen
class GiveUp:
    """Raise the error of the latest attempt.

    Args:
        reason: What ended the retries, for the message; empty if sending again cannot help.
        wait: Seconds for which the gate closes all the same.
        closes_gate: Whether it does: the server's state outlives this call.
    """

    reason: str
    wait: float = 0.0
    closes_gate: bool = False


class RetryBudget:
    """A client's allowance of retries: a bucket of tokens that successes fill.

    In a total outage it allows 10 retries and then none, however many calls there are; where
    half the attempts fail, about 7 for every 100 calls. Shape and numbers are those of
    botocore's retry quota, scaled from 500 tokens (botocore/retries/quota.py).

    It holds plain values and belongs to no event loop.
    """

    CAPACITY = 140
    COST = 14
    INCOME = 1

    def __init__(self) -> None:
        self._tokens = self.CAPACITY

    @property
    def empty(self) -> bool:
        """Whether it has no retry left."""
        return self._tokens < self.COST

    def take(self) -> bool:
        """Pay for one retry; return False if that is not possible."""
        if self.empty:
            return False
        self._tokens -= self.COST
        return True

    def succeeded(self, *, retried: bool) -> None:
        """Note an attempt that ended well.

        Args:
            retried: Whether this attempt was paid for by ``take``; it is refunded.
        """
        income = self.COST if retried else self.INCOME
        self._tokens = min(self.CAPACITY, self._tokens + income)


def backoff(policy: RetryPolicy, failures: int, draw: float) -> float:
    """Return the seconds to wait after a number of failures: exponential, with full jitter.

    Args:
        policy: Its ``backoff_base`` and ``backoff_cap``.
        failures: So far, 1 or more.
        draw: A random number, 0 or more and below 1.
    """
    # A higher power overflows a float; by then the cap holds.
    doubled = policy.backoff_base * 2.0 ** min(failures - 1, 1023)
    return draw * min(policy.backoff_cap, doubled)


def decide(
    policy: RetryPolicy,
    history: History,
    judgement: Judgement,
    *,
    retry_after: float | None,
    left: float,
    budget: RetryBudget,
    draw: float,
    waits: bool,
    key_honoured: bool = False,
    gave_up: str = "",
    closings: int | None = None,
) -> Retry | GiveUp:
    """Decide what happens after an attempt without an image; the module says how.

    Args:
        policy: The limits.
        history: The call's attempts, this one counted.
        judgement: What this attempt ended as.
        retry_after: Seconds that its answer asked to wait.
        left: Seconds until the call's deadline; infinite if there is none.
        budget: The client's; a retry that does not close the gate is taken from it.
        draw: A random number, 0 or more and below 1.
        waits: Whether a refused call waits without end, and its deadline stands still while the
            gate is closed: so in ``generate_many`` and ``batch``.
        key_honoured: Whether a second request under the same key buys nothing.
        gave_up: Why the whole run sends nothing more, if it has come to that.
        closings: What the backoff of a refusal grows with, if the gate knows better than the
            call's own refusals.
    """
    refused, asked = judgement.verdict is Verdict.REFUSED, retry_after or 0.0
    drained = waits and judgement.again and budget.empty and not (refused or judgement.pending)
    closes_gate, alike = refused or drained, history.alike(judgement)
    pays = not (closes_gate or judgement.pending)
    wait = _wait(policy, retry_after, (refused and closings) or alike, draw)
    if drained:
        wait = max(PROBE_EVERY, min(LONGEST_WAIT, asked))
    bought = 0 if key_honoured else history.charges
    too_long = f"the server asked for {math.ceil(asked)} s, more than retry_after_max"
    stops = (
        (not judgement.again, ""),
        (bool(gave_up), gave_up),
        (bought >= policy.max_charges, f"the charge cap of {policy.max_charges}"),
        (history.sends >= policy.max_sends, sends_spent(history.sends)),
        (refused and alike >= _refusal_limit(policy, waits=waits), _plural(alike, "refusal")),
        (pays and alike >= policy.max_attempts, _plural(alike, "attempt")),
        (not waits and asked > policy.retry_after_max, too_long),
        (left <= (0.0 if waits and closes_gate else wait), "no time left"),
        (pays and budget.empty, "the retry budget is empty"),
    )
    reason = next((reason for stop, reason in stops if stop), None)
    if reason is not None:
        return GiveUp(reason, wait if closes_gate else 0.0, closes_gate)
    if pays:
        budget.take()
    return Retry(wait, closes_gate)


def sends_spent(sends: int) -> str:
    """Return why a request whose sends are used up is not sent again."""
    return f"it went out {_plural(sends, 'time')}, and max_sends allows no more"


def _wait(policy: RetryPolicy, retry_after: float | None, steps: int, draw: float) -> float:
    own = backoff(policy, steps, draw)
    # A server that refuses and says "retry at once" would be asked without a pause, for ever.
    if retry_after is None or retry_after < policy.backoff_base:
        return max(own, min(LONGEST_WAIT, retry_after or 0.0))
    return min(LONGEST_WAIT, retry_after + draw * min(1.0, retry_after / 10))


def _refusal_limit(policy: RetryPolicy, *, waits: bool) -> float:
    if policy.max_refusals == "auto":
        return BATCH_REFUSALS if waits else GENERATE_REFUSALS
    return math.inf if policy.max_refusals is None else policy.max_refusals


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
