"""Plots as SVG files, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mpaxos.bench.measure import Measurement
from mpaxos.bench.percentiles import distribution
from mpaxos.errors import ConfigError


class Line(msgspec.Struct, frozen=True):
    """One curve: x and y ascending in x."""

    name: str
    points: list[tuple[float, float]]


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn."""

    title: str
    x: str
    y: str
    lines: list[Line]
    logarithmic_x: bool = True
    logarithmic_y: bool = False


def _figure() -> tuple[Any, Any]:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "plots need the package matplotlib: pip install 'mpaxos[bench]'"
        ) from None
    matplotlib.use("svg")
    # The same numbers give the same file: ids would otherwise be random.
    matplotlib.rcParams["svg.hashsalt"] = "mpaxos"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    return pyplot, pyplot.subplots(figsize=(8, 4.5), layout="constrained")


def check_library() -> None:
    """Raise ConfigError when nothing can be drawn: better before the run than after it."""
    pyplot, (figure, _) = _figure()
    pyplot.close(figure)


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def draw(plot: Plot, path: Path) -> None:
    """Write a plot. Raises ConfigError."""
    pyplot, (figure, axes) = _figure()
    for line in plot.lines:
        if line.points:
            xs, ys = zip(*line.points, strict=True)
            axes.plot(xs, ys, marker="o", markersize=4, label=line.name)
    if plot.logarithmic_x:
        axes.set_xscale("log")
    if plot.logarithmic_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    ticks = sorted({x for line in plot.lines for x, _ in line.points})
    if len(ticks) <= 14:
        axes.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.grid(visible=True, alpha=0.3)
    if len(plot.lines) > 1:
        axes.legend()
    _save(pyplot, figure, path)


def draw_events(
    title: str, panels: Sequence[tuple[Line, list[tuple[float, str]]]], path: Path
) -> None:
    """Throughput over seconds, a panel below the other for each (curve, [(when, what happened)]).

    Raises ConfigError.
    """
    pyplot, (unused, _) = _figure()
    pyplot.close(unused)
    figure, grid = pyplot.subplots(
        len(panels), 1, figsize=(12, 3.4 * len(panels)), layout="constrained", squeeze=False
    )
    for axes, (line, events) in zip(grid[:, 0], panels, strict=True):
        axes.plot([x for x, _ in line.points], [y for _, y in line.points], linewidth=0.7)
        axes.set_ylim(bottom=0)
        for at, text in events:
            axes.axvline(at, color="tab:red", linewidth=0.8, alpha=0.7)
            where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(
                text, (at, 0.98), xytext=(2, 0), rotation=90, va="top", fontsize=7, **where
            )
        axes.set_title(line.name, loc="left", fontsize=9)
        axes.set_xlabel("seconds")
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle(title)
    _save(pyplot, figure, path)


def percentile_axis(percentile: float) -> float:
    """Where a percentile lies: 90, 99, 99.9 ... at equal distances, as one over what is left."""
    return 1 / max(1e-12, 1 - percentile / 100)


def draw_latency(outcomes: Sequence[tuple[str, Measurement]], path: Path) -> None:
    """Latency by percentile, a curve for each (name, outcome). Raises ConfigError."""
    pyplot, (figure, axes) = _figure()
    longest = 1.0
    for name, outcome in outcomes:
        if outcome.latency is None:
            continue
        points = [(percentile_axis(p), v / 1000) for p, v in distribution(outcome.latency)]
        longest = max(longest, points[-1][0])
        axes.plot([x for x, _ in points], [y for _, y in points], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9")]
    ticks += [(99.99, "99.99"), (99.999, "99.999")]
    kept = [(percentile_axis(p), text) for p, text in ticks if percentile_axis(p) <= longest]
    axes.set_xticks([x for x, _ in kept], [text for _, text in kept])
    axes.minorticks_off()
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency, ms")
    axes.set_title("; ".join(f"{n}: {o.throughput:,.0f} requests/s" for n, o in outcomes))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    _save(pyplot, figure, path)
