"""What a run came to, as values."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Report:
    """What a batch came to: the rows of this run's input, and the money of all its runs.

    Args:
        total: Rows of the input that were read: done, failed, unknown, dropped and pending.
        done: Rows with at least one image.
        failed: Rows that cost nothing and brought nothing; malformed ones are among them.
        unknown: Rows that were or may have been charged and are not done.
        received: Unknown rows that are paid for and whose images are still behind links.
        dropped: Unknown rows that ``on_unknown="drop"`` gave up.
        pending: Rows that were read and not sent, or are under way.
        invalid: Rows that are no request, or that may not be sent; counted as failed.
        skipped: Rows that earlier runs had settled.
        bought_before: New rows that ask for a prompt which was bought before with other fields,
            spaces or capitals.
        others: What the folder holds beside these rows: items of other inputs, or of rows that
            were not read.
        others_unknown: How many of those were or may have been charged and are not done.
        images: Image files that are here.
        attempts: HTTP exchanges begun.
        charged_maybe: Unknown and dropped rows that may have been charged.
        charged_yes: Unknown and dropped rows that were charged.
        resent: How often an item was sent again although it may have been charged.
        recounted: Failed items that this run sent again with a new count of sends.
        spent: Images that were or may have been charged.
        cost: What the gateway said that they cost, in US dollars, and the price of those of which
            it said nothing, if one was given.
        presumed_free: Images that went out and were answered by a failure that counts as free;
            they were bought too if the gateway charges its failures.
        presumed_free_cost: Their price, if one was given.
        seconds: How long this run took.
        partial: Whether the input was not read to its end: there may be more items.
        stopped_by: What stopped the intake: ``quota``, ``authentication``, ``budget``,
            ``max_failures``, ``unreachable``, ``refused``, ``disk``,
            ``journal``, ``client``, or the reason given to ``stop``.
        problem: What stopped it, or went wrong with a view, as a sentence.
        share: How many images this shard's part of the budget buys; None without shards or budget.
    """

    total: int
    done: int
    failed: int
    unknown: int
    received: int
    dropped: int
    pending: int
    invalid: int
    skipped: int
    bought_before: int
    others: int
    others_unknown: int
    images: int
    attempts: int
    charged_maybe: int
    charged_yes: int
    resent: int
    recounted: int
    spent: int
    cost: float | None
    presumed_free: int
    presumed_free_cost: float | None
    seconds: float
    partial: bool
    stopped_by: str | None
    problem: str | None
    share: int | None = None

    @property
    def ok(self) -> bool:
        """Whether every row of the input is done, or was dropped on purpose."""
        return self.done + self.dropped == self.total and not self.partial

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return attrs.asdict(self)
