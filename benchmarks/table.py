"""The results as Markdown: one table for each kind of work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TITLES: Mapping[str, str] = {
    "links": "Link answers, {in_flight} in flight",
    "images": "Base64 answers of 4 images of 2 MB, {in_flight} in flight, to files",
    "thousand": "Link answers that take 1 s, {in_flight:,} in flight",
}
"""Of the works that are timed; ``format`` gets the work's results."""

METHOD = (
    "The server is one other process on the same machine. Figures are medians of rounds in which"
    " all clients run in turn; ratios are medians of ratios to the script's run of the same round."
)

FAULTS: Mapping[str, str] = {
    "drop": "connection dropped",
    "cut": "body cut",
    "504": "504",
}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole page."""
    works = results["works"]
    parts = [_about(results)]
    for name in TITLES:
        if name in works:
            parts.append(_timed(TITLES[name].format(**works[name]), works[name]))
    if "imports" in works:
        parts.append(_imports(works["imports"]))
    if works.get("batch", {}).get("sides"):
        parts.append(_batch(works["batch"]))
    if "charges" in works:
        parts.append(_charges(works["charges"]))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table, its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _about(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    machine = results["machine"]
    lines = [
        f"Python {machine['python']}, {machine['system']}, {machine['cores']} cores; {versions}.",
        METHOD,
    ]
    if results.get("quick"):
        lines.append("A quick run: one round, too little to quote.")
    lines += [f"Not installed: {name}: {why}" for name, why in results["missing"].items()]
    return "\n".join(lines)


def _timed(title: str, work: Mapping[str, Any]) -> str:
    head = ("client", "CPU a call", "x script", "calls/s", "x script", "peak memory")
    rows = [
        (
            name,
            _microseconds(side["cpu_us"]),
            _times(side.get("cpu_ratio")),
            f"{side['per_second']:,.0f}",
            _times(side.get("throughput_ratio")),
            f"{side['peak_mib']:.0f} MiB",
        )
        for name, side in work["sides"].items()
    ]
    failed = [f"\n\nFailed: {error}" for error in work["errors"].values()]
    note = f"{work['calls']:,} calls, {_rounds(work)}."
    return f"### {title}\n\n{note}\n\n{table(head, rows)}{''.join(failed)}"


def _imports(work: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{side['import_s']:.2f} s", f"{side['first_answer_s']:.2f} s")
        for name, side in work["sides"].items()
    ]
    head = ("client", "import", "process that gets one answer")
    return f"### Start\n\n{_rounds(work).capitalize()}.\n\n{table(head, rows)}"


def _batch(work: Mapping[str, Any]) -> str:
    names = {"many": "`generate_many`, in memory", "batch": "`batch`, journal and synced files"}
    rows = [
        (
            names[name],
            _microseconds(side["cpu_us"]),
            f"{side['per_second']:,.0f}",
            f"{side['peak_mib']:.0f} MiB",
        )
        for name, side in work["sides"].items()
    ]
    head = ("imagen_async", "CPU an item", "items/s", "peak memory")
    title = f"### {work['items']:,} small images, 64 in flight"
    return f"{title}\n\n{_rounds(work).capitalize()}.\n\n{table(head, rows)}"


def _charges(work: Mapping[str, Any]) -> str:
    head = (
        "charges per call",
        *(f"{FAULTS[kind]}, every time" for kind in FAULTS),
        *(f"{FAULTS[kind]}, once" for kind in FAULTS),
    )
    rows = []
    for name, side in work["sides"].items():
        always = [f"{side[f'{kind}, always']['charges']:g}" for kind in FAULTS]
        once = [_bought(side[f"{kind}, once"]) for kind in FAULTS]
        rows.append((name, *always, *once))
    note = (
        "The server makes and charges an image, then the fault strikes: at every attempt, or at"
        " the first one of each call. In brackets, images that came per call. imagen_async"
        " raises an error that says the call may have been charged."
    )
    return f"### Charges\n\n{note}\n\n{table(head, rows)}"


def _bought(account: Mapping[str, float]) -> str:
    return f"{account['charges']:g} ({account['images']:g})"


def _rounds(work: Mapping[str, Any]) -> str:
    return "one round" if work["rounds"] == 1 else f"{work['rounds']} rounds"


def _microseconds(value: float) -> str:
    return f"{value / 1000:.1f} ms" if value >= 10_000 else f"{value:.0f} µs"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
