"""What is shown while a benchmark runs, and its tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mpaxos.bench.measure import Measurement, Show
from mpaxos.bench.percentiles import Latency


class LiveShow(Show):
    """A bar, at a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[rate]:>14}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> LiveShow:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, what: str, seconds: float) -> None:
        self._task = self._progress.add_task(what, total=seconds, rate="")

    def progress(self, done: float, rate: float) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, rate=f"{rate:,.0f} /s")

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


class PlainShow(Show):
    """A line per measurement, in a file or a log."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._began = time.monotonic()

    def __enter__(self) -> PlainShow:
        return self

    def __exit__(self, *error: object) -> None: ...

    def begin(self, what: str, seconds: float) -> None:
        spent = time.monotonic() - self._began
        print(f"{spent:7.1f} s  {what}", file=self._output, flush=True)


def make_show() -> LiveShow | PlainShow:
    """The right way of showing; always on stderr, stdout is for results."""
    if sys.stderr.isatty():
        return LiveShow(Console(stderr=True))
    return PlainShow(sys.stderr)


def microseconds(value: float | None) -> str:
    """A time as people read it; the argument is in microseconds."""
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.0f} us" if value >= 10 else f"{value:.2f} us"
    return f"{value / 1000:.2f} ms" if value < 1_000_000 else f"{value / 1e6:.2f} s"


def rate_text(value: float) -> str:
    """Requests per second, three digits."""
    return f"{value:,.0f}" if value < 10_000 else f"{value / 1000:,.1f} k"


def console_for(output: TextIO) -> Console:
    """A console; a file has no width, so lines are not folded there."""
    return Console(file=output, width=None if output.isatty() else 180)


def describe(outcome: Measurement) -> str:
    """The workload in a line."""
    w = outcome.workload
    loop = f"open loop, {w.rate:,.0f} requests/s" if w.rate else "closed loop"
    what = "puts" if w.reads == 0 else "gets" if w.reads == 1 else f"{100 * w.reads:.0f} % gets"
    return (
        f"{loop}, {w.connections:,} connections, {w.depth} deep, {what} of {w.size:,} B, "
        f"{w.keys:,} keys {w.distribution}, {w.protocol} protocol"
    )


def print_measurement(outcome: Measurement, output: TextIO) -> None:
    """The outcome as people read it."""
    console = console_for(output)
    console.print(f"[bold]{outcome.target}[/]: {describe(outcome)}", soft_wrap=True)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "requests", "p50", "p90", "p99", "p99.9", "max", "mean"):
        shown.add_column(column, justify="left" if not column else "right")
    both = outcome.reads is not None and outcome.writes is not None
    rows: list[tuple[str, Latency | None]] = [("all", outcome.latency)]
    if both:
        rows += [("gets", outcome.reads), ("puts", outcome.writes)]
    for name, latency in rows:
        if latency is not None:
            values = (latency.p50, latency.p90, latency.p99, latency.p999, latency.maximum)
            times = [microseconds(value) for value in (*values, latency.mean)]
            shown.add_row(name, f"{latency.count:,}", *times)
    console.print(shown)
    console.print(f"[bold]{outcome.throughput:,.0f} requests/s[/] over {outcome.seconds:.1f} s")
    console.print(_costs(outcome), soft_wrap=True)
    for at, length in outcome.stalls[:5]:
        console.print(f"no answer at all for {length:.0f} ms, {at:.2f} s after the beginning")
    for text in outcome.warnings:
        console.print(f"[yellow]warning: {text}", soft_wrap=True)


def _costs(outcome: Measurement) -> str:
    parts = [
        f"load generator {outcome.client_per_request:.2f} us "
        f"({100 * outcome.client_share:.0f} % of a core)"
    ]
    parts += [
        f"{use.name}{', leader' if use.role == 'leader' else ''} {use.per_request:.2f} us "
        f"({100 * use.share:.0f} %)"
        for use in outcome.servers
    ]
    if not outcome.servers:
        parts.append("servers not measured: they run elsewhere")
    return "processor time per request: " + "; ".join(parts)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" + "---:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def print_rows(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], output: TextIO
) -> None:
    """The same at a terminal."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(head):
        shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*row)
    console_for(output).print(shown)
