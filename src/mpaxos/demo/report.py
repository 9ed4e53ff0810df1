"""What the demo shows: a live bar and a table for people at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from mpaxos.demo.scenario import Findings, Show


class LiveShow(Show):
    """At a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>12}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._began = 0.0

    def __enter__(self) -> LiveShow:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def begin(self, what: str, total: int) -> None:
        self._began = time.monotonic()
        self._task = self._progress.add_task(what, total=total, rate="")

    def progress(self, done: int) -> None:
        if self._task is not None:
            rate = done / max(0.001, time.monotonic() - self._began)
            self._progress.update(self._task, completed=done, rate=f"{rate:,.0f} /s")

    def end(self) -> None:
        self._task = None


class PlainShow(Show):
    """Into a file or a log: a line per event and per tenth."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._what, self._total, self._tenth = "", 0, 0
        self._began = time.monotonic()

    def __enter__(self) -> PlainShow:
        return self

    def __exit__(self, *error: object) -> None: ...

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.2f} s  {text}", file=self._output, flush=True)

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._tenth = what, total, 0

    def progress(self, done: int) -> None:
        tenth = 10 * done // max(1, self._total) if self._what else 0
        if tenth > self._tenth:
            self._tenth = tenth
            self.say(f"{self._what}: {done:,} of {self._total:,}")

    def end(self) -> None:
        self._what = ""


def make_show(quiet: bool = False) -> LiveShow | PlainShow:
    """The right way of showing for where the output goes; `quiet` keeps stdout for JSON."""
    if quiet or not sys.stdout.isatty():
        return PlainShow(sys.stderr if quiet else sys.stdout)
    return LiveShow(Console())


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def print_table(found: Findings) -> None:
    """The short table at the end."""
    # A file has no width: do not fold lines there.
    console = Console(width=None if sys.stdout.isatty() else 100)
    shown = Table(show_header=False, title="replicated, crashed, recovered, compared")
    shown.add_column(style="bold")
    shown.add_column(justify="right")
    doubles = found.records - found.names
    shown.add_row("input", found.source)
    shown.add_row("records put", f"{found.records:,} ({found.bytes / 1e6:.1f} MB)")
    shown.add_row("names", f"{found.names:,} ({doubles:,} records replaced by a later one)")
    rate = found.commands / max(found.seconds, 1e-9)
    shown.add_row("commands/s while loading, crashes included", f"{rate:,.0f}")
    for crash in found.crashes:
        listed = ", ".join(map(str, crash.replicas))
        who = f"kill -9 of {crash.who} ({listed})"
        shown.add_row(f"{who}: longest stall", _milliseconds(crash.stall))
        times = ", ".join(_milliseconds(crash.in_step[n]) for n in sorted(crash.in_step))
        shown.add_row("    process start to in step", times)
    for number, count in sorted(found.read.items()):
        shown.add_row(f"read back through replica {number}", f"{count:,}")
    style = "green" if found.good else "bold red"
    shown.add_row("mismatches", f"[{style}]{sum(found.mismatches.values())}")
    equal = "equal" if len(set(found.digests.values())) == 1 else "DIFFERENT"
    digests = ", ".join(sorted(set(found.digests.values())))
    shown.add_row(f"state digests at slot {found.applied:,}", f"[{style}]{equal}: {digests}")
    console.print(shown)
