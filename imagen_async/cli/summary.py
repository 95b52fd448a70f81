"""What a batch came to, in lines that say what to do next; pure."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Final

from imagen_async.batch.reasons import reason_of
from imagen_async.cli.words import advised, amount, command, duration, kept_columns, spoken
from imagen_async.errors import Charge, DownloadError, InvalidRequestError
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imagen_async.batch.plan import Plan
    from imagen_async.batch.report import Report
    from imagen_async.errors import ImagenError
    from imagen_async.session.stream import Outcome

REASONS_SHOWN: Final = 5


class Reasons:
    """Why items of a run brought no image, counted by what can be done about it."""

    def __init__(self) -> None:
        self.count: int = 0
        self.failed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def add(self, outcome: Outcome, error: ImagenError) -> None:
        """Count an item; what is wrong with a row is told of each."""
        self.count += 1
        if outcome.request is None or isinstance(error, InvalidRequestError):
            return
        received = isinstance(error, DownloadError)
        free = error.charge is Charge.NO
        reasons = self.failed if free else self.received if received else self.unknown
        reasons[reason(error)] += 1


def reason(error: ImagenError) -> str:
    """Return why there is no image, in a few words that others share."""
    return reason_of(error.message, status=error.status, code=error.code)


def summary_lines(
    report: Report,
    folder: Path,
    *,
    reasons: Reasons,
    arguments: Sequence[str],
    budget_needed: float | None = None,
    rows: int | None = None,
) -> list[str]:
    """Return the end of a batch in lines.

    Args:
        report: What the run came to.
        folder: The folder that it wrote to.
        reasons: Why items of this run brought no image.
        arguments: What was typed after the command's name.
        budget_needed: The budget that would finish, if one stopped the run.
        rows: Of the input; None while not known.
    """
    shown = printable(str(folder), 300)
    stopped = report.stopped_by or report.partial
    lines = _what_is_left(report, arguments, budget_needed) if stopped else []
    lines += _wrong_and_failed(report, shown, reasons, arguments)
    lines += _unknown_lines(report, shown, reasons, arguments)
    if report.others_unknown:
        lines.append(
            f"{report.others_unknown:,} of the folder's other items were or may have been charged "
            f"and are not done: see {shown}/unknown.jsonl."
        )
    if report.bought_before:
        lines.append(
            f"{report.bought_before:,} new rows ask for prompts that were bought before with other "
            "fields, spaces or capitals."
        )
    if report.problem and not report.stopped_by:
        lines.append(f"Note: {printable(report.problem)}")
    if report.failed or report.unknown:
        lists = [name for name in ("failed", "unknown") if getattr(report, name)]
        lines.append(f"Each is listed in {' and '.join(f'{shown}/{it}.jsonl' for it in lists)}.")
    return [*lines, _counts(report, shown, rows)]


def _counts(report: Report, shown: str, rows: int | None) -> str:
    known = rows if report.partial and rows else report.total
    of = f"{known:,}{' read' if report.partial and not rows else ''}"
    left = known - report.done - report.failed - report.unknown - report.dropped
    images = f" ({report.images:,} images)" if report.images != report.done else ""
    waiting = f", {left:,} not sent" if report.partial and left > 0 else ""
    dropped = f", {report.dropped:,} dropped" if report.dropped else ""
    cost = "" if report.cost is None else f"; at most {report.cost:,.2f} spent"
    others = f"; the folder holds {report.others:,} more" if report.others else ""
    return (
        f"{shown}: {report.done:,} of {of} done{images}, {report.failed:,} failed, "
        f"{report.unknown:,} unknown{dropped}{waiting}, in "
        f"{duration(report.seconds)}{cost}{others}"
    )


def _wrong_and_failed(
    report: Report, shown: str, reasons: Reasons, arguments: Sequence[str]
) -> list[str]:
    lines: list[str] = []
    if report.invalid:
        lines.append(
            f"{report.invalid:,} rows cannot be sent as they are: correct them "
            f"({shown}/failed.jsonl or unknown.jsonl says why) and run the same command again."
        )
    if tried := report.failed - report.invalid:
        free = "" if report.presumed_free else " and cost nothing"
        lines += [
            f"{tried:,} failed{free}: {_told(reasons.failed, tried)}",
            f"  try again: {command(arguments, '--retry-failed', *_more(report))}",
        ]
    if report.presumed_free:
        cost = report.presumed_free_cost
        price = "" if cost is None else f" ({cost:,.2f})"
        lines.append(
            f"{report.presumed_free:,} images{price} count as not charged, by how the requests for "
            "them failed; they were bought if the gateway charges its failures."
        )
    if report.recounted:
        lines.append(f"{report.recounted:,} of the failed were sent again with a new count.")
    return lines


def _unknown_lines(
    report: Report, folder: str, reasons: Reasons, arguments: Sequence[str]
) -> list[str]:
    """Return what may be done about each kind of what is in doubt, with the commands that do it."""
    lines: list[str] = []
    if sent := report.unknown - report.received:
        told = _told(reasons.unknown, sent, "cut off, or in earlier runs")
        lines += [
            f"{sent:,} charged or perhaps charged, and no image: {told}",
            f"  ask the gateway's log: {shlex.join(('imagen-async', 'settle', folder))}",
        ]
    first = ""
    if received := report.received:
        told = _told(reasons.received, received)
        lines += [
            f"{received:,} paid for, and the images did not come: {told}",
            f"  try the links again: {command(arguments)}",
        ]
        first = ", links first"
    if report.unknown:
        lines += [
            f"  buy again{first}: {command(arguments, '--on-unknown', 'resend', *_more(report))}",
            f"  close{first}: {command(arguments, '--on-unknown', 'drop')}",
        ]
    return lines


def _told(reasons: Counter[str], total: int, rest: str = "in earlier runs") -> str:
    """Return reasons with their numbers, the most frequent first, and how many have none here."""
    shown = reasons.most_common(REASONS_SHOWN)
    # A status at the beginning would be read as a part of the number.
    times = {reason: " x" if reason[:1].isdigit() else "" for reason, _ in shown}
    told = [f"{number:,}{times[reason]} {printable(reason, 80)}" for reason, number in shown]
    if others := reasons.total() - sum(number for _, number in shown):
        told.append(f"{others:,} other reasons")
    if (without := total - reasons.total()) > 0:
        told.append(f"{without:,} {rest}")
    return ", ".join(told)


def _more(report: Report) -> tuple[str, ...]:
    """Return the option without which nothing more would be bought after this run."""
    return ("--budget", "MORE") if report.stopped_by == "budget" else ()


def _what_is_left(
    report: Report, arguments: Sequence[str], budget_needed: float | None
) -> list[str]:
    why = printable(report.stopped_by or "cancelled", 100)
    told = f" ({advised(printable(report.problem)).rstrip('.')})" if report.problem else ""
    why = "the budget has no room for more" if why == "budget" else f"{why}{told}"
    lines, more = [f"Stopped early: {why}; the rest was not sent."], _more(report)
    if budget_needed is not None:
        lines.append(f"A budget of {budget_needed:,.2f} would finish it, if all goes well.")
        more = ("--budget", amount(budget_needed))
    return [*lines, f"  go on: {command(arguments, *more)}"]


def plan_lines(plan: Plan) -> list[str]:
    """Return what a run would do, in lines."""
    facts = (
        (plan.rows, "rows in the input"),
        (plan.done, "done already"),
        (plan.to_send, f"to send, {plan.images:,} images at least"),
        (plan.resend, "of them sent again although they may have been charged"),
        (plan.bought_before, "of them bought before with other fields, spaces or capitals"),
        (plan.downloads, "paid answers whose images would be downloaded"),
        (plan.failed, "failed earlier and left alone; --retry-failed sends them"),
        (plan.unknown, "may have been charged and left alone; see --on-unknown"),
        (plan.dropped, "dropped"),
        (plan.invalid, "cannot be sent as they are"),
    )
    lines = [f"{number:>9,}  {text}" for number, text in facts if number or text == facts[0][1]]
    lines += [f"{'':11}{spoken(printable(text))}" for text in plan.wrong]
    if plan.invalid > len(plan.wrong):
        lines.append(f"{'':11}and {plan.invalid - len(plan.wrong):,} more")
    if plan.spent:
        lines.append(f"{plan.spent:>9,.2f}  is spent already, at most")
    if plan.cost is not None:
        lines.append(f"{plan.cost:>9,.2f}  is what they cost at least")
    if plan.covered is not None and plan.covered < plan.to_send:
        lines.append(
            f"The budget stops after {plan.covered:,} of {plan.to_send:,}; "
            f"{plan.budget_needed or 0:,.2f} would finish, if all goes well."
        )
    if plan.columns:
        lines.append(kept_columns(plan.columns))
    if plan.seconds is not None:
        lines.append(f"At this rate it takes {duration(plan.seconds)} at least.")
    return [*lines, "Nothing was sent."]
