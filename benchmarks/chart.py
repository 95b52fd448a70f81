"""The chart of the README, drawn from ``results.json``: ``chart.py RESULTS IMAGE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS = "#0f766e"
OTHERS = "#a8b3bd"
INK = "#1f2933"
QUIET = "#5f6b76"
SHOWN = {
    "imagen_async": "imagen_async",
    "aiohttp script": "plain aiohttp",
    "openai": "openai",
    "openai, aiohttp": "openai + aiohttp",
    "litellm": "litellm",
}
CHARGED = {
    "imagen_async": "imagen_async",
    "aiohttp script, 3 attempts": "plain, 3 attempts",
    "openai": "openai",
    "openai, aiohttp": "openai + aiohttp",
    "litellm": "litellm",
}
NAMED = ("aiohttp", "openai", "litellm")


def bars(axes: Axes, title: str, about: str, rows: Sequence[tuple[str, float, str]]) -> None:
    """Draw one panel: names, bars, and what each amounts to."""
    names = [name for name, _, _ in rows]
    values = [value for _, value, _ in rows]
    colors = [OURS if name == "imagen_async" else OTHERS for name in names]
    axes.barh(range(len(rows)), values, color=colors, height=0.66)
    longest = max(values)
    for place, (name, value, text) in enumerate(rows):
        weight = "bold" if name == "imagen_async" else "normal"
        axes.text(value + longest * 0.02, place, text, va="center", color=INK, weight=weight)
    axes.set_yticks(range(len(rows)), names)
    for label in axes.get_yticklabels():
        label.set_weight("bold" if label.get_text() == "imagen_async" else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.3)
    axes.set_xticks([])
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", pad=24, weight="bold", color=INK, fontsize=13)
    axes.text(0, 1.03, about, transform=axes.transAxes, color=QUIET, fontsize=10.5)


def timed(work: dict[str, Any], key: str, unit: str, scale: float) -> list[tuple[str, float, str]]:
    sides = work["sides"]
    return [
        (shown, sides[name][key], f"{_short(sides[name][key] / scale)} {unit}")
        for name, shown in SHOWN.items()
        if name in sides
    ]


def charged(work: dict[str, Any]) -> list[tuple[str, float, str]]:
    rows = []
    for name, shown in CHARGED.items():
        if name in work["sides"]:
            value = work["sides"][name]["drop, always"]["charges"]
            rows.append((shown, value, f"{value:g}"))
    return rows


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def panels(works: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, float, str]]]]:
    """Return what can be drawn from these results."""
    found = []
    if "links" in works:
        rows = timed(works["links"], "cpu_us", "µs", 1)
        found.append(("CPU per request", "link answers, 64 in flight", rows))
    if "images" in works:
        about = "4 images of 2 MB an answer, 64 in flight, to files"
        found.append(("CPU per answer", about, timed(works["images"], "cpu_us", "ms", 1000)))
        found.append(("Peak memory", about, timed(works["images"], "peak_mib", "MiB", 1)))
    if "charges" in works:
        about = "each attempt is charged, then its connection drops"
        found.append(("Charges per call", about, charged(works["charges"])))
    return [panel for panel in found if panel[2]]


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the panels and save them."""
    shown = panels(results["works"])
    plt.rcParams.update({"font.size": 11, "font.family": "DejaVu Sans", "text.color": INK})
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.6), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.22)  # type: ignore[union-attr]
    for place, panel in zip(axes.flat, shown, strict=False):
        bars(place, *panel)
    for place in axes.flat[len(shown) :]:
        place.set_axis_off()
    machine = results["machine"]
    versions = results["versions"]
    named = [f"{name} {versions[name]}" for name in NAMED if name in versions]
    where = f"Python {machine['python']}, {machine['cores']} cores, {', '.join(named)}"
    figure.supxlabel(
        f"Less is better. One run, one server process; {where}.",
        fontsize=9.5,
        color=QUIET,
        x=0.01,
        ha="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
