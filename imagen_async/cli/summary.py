"""What a batch came to, in lines that say what to do next; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagen_async.cli.progress import duration
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from imagen_async.batch.plan import Plan
    from imagen_async.batch.report import Report


def summary_lines(report: Report, folder: Path, gallery: Path | None) -> list[str]:
    """Return the end of a batch in lines.

    Args:
        report: What it came to.
        folder: Where its images and lists are.
        gallery: Its page, if it was written.
    """
    shown = printable(str(folder), 300)
    lines = [_what_is_left(report, shown)] if report.stopped_by or report.partial else []
    tried = report.failed - report.invalid
    if report.invalid:
        lines.append(
            f"{report.invalid:,} rows cannot be sent as they are: correct them "
            f"({shown}/failed.jsonl or unknown.jsonl says why) and run the same command again."
        )
    if tried:
        free = "" if report.presumed_free else " and cost nothing"
        lines.append(
            f"{tried:,} failed{free}: {shown}/failed.jsonl says why; --retry-failed tries them "
            "again."
        )
    if report.presumed_free:
        lines.append(_presumed(report))
    if report.recounted:
        lines.append(f"{report.recounted:,} of the failed were sent again with a new count.")
    lines += _unknown_lines(report, shown)
    if report.bought_before:
        lines.append(
            f"{report.bought_before:,} new rows ask for prompts that were bought before with other "
            "fields, spaces or capitals."
        )
    if report.problem and not report.stopped_by:
        lines.append(f"Note: {printable(report.problem)}")
    page = "" if gallery is None else f"; gallery: {printable(str(gallery), 300)}"
    dropped = f", {report.dropped:,} dropped" if report.dropped else ""
    cost = "" if report.cost is None else f"; at most {report.cost:,.2f} spent"
    others = f"; the folder holds {report.others:,} more" if report.others else ""
    read = " read" if report.partial else ""
    lines.append(
        f"{shown}: {report.done:,} of {report.total:,}{read} done ({report.images:,} images), "
        f"{report.failed:,} failed, {report.unknown:,} unknown{dropped}, in "
        f"{duration(report.seconds)}{cost}{others}{page}"
    )
    return lines


def _presumed(report: Report) -> str:
    cost = report.presumed_free_cost
    price = "" if cost is None else f" ({cost:,.2f})"
    return (
        f"{report.presumed_free:,} images{price} count as not charged, by how the requests for "
        "them failed; they were bought if the gateway charges its failures."
    )


def _unknown_lines(report: Report, shown: str) -> list[str]:
    """Return what may be done about each kind of what is in doubt, with the flags that do it."""
    lines: list[str] = []
    if sent := report.unknown - report.received:
        lines.append(
            f"{sent:,} were or may have been charged and are not done: see {shown}/unknown.jsonl; "
            "--on-unknown resend buys them again, --on-unknown drop closes them."
        )
    if report.received:
        lines.append(
            f"{report.received:,} are paid for and their images did not come: see "
            f"{shown}/unknown.jsonl; running again tries their links again, and where those are "
            "dead, --on-unknown resend buys the images again and --on-unknown drop closes them."
        )
    if report.others_unknown:
        lines.append(
            f"{report.others_unknown:,} of the folder's other items were or may have been charged "
            f"and are not done: see {shown}/unknown.jsonl."
        )
    return lines


def _what_is_left(report: Report, shown: str) -> str:
    why = report.stopped_by or "cancelled"
    told = f" ({printable(report.problem)})" if report.problem else ""
    more = " with a larger --budget" if why == "budget" else ""
    return (
        f"Stopped early: {printable(why, 100)}{told}; the rest was not sent: "
        f"run the same command again{more} to go on in {shown}."
    )


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
    if plan.cost is not None:
        lines.append(f"{plan.cost:>9,.2f}  is what they cost at least")
    if plan.seconds is not None:
        lines.append(f"At this rate it takes {duration(plan.seconds)} at least.")
    lines.append("Nothing was sent.")
    return lines
