"""The outcome as JSON, and as a page of tables and plots."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import msgspec

from bench.recovery.faults import (
    FOLLOWER_KILLED,
    IDLE,
    LEADER_FROZEN,
    LEADER_KILLED,
    Outcome,
    Run,
    milliseconds,
)
from bench.recovery.steady import Steady
from bench.recovery.transfer import Transfer
from mpaxos.bench import plots
from mpaxos.bench.usage import machine_text
from mpaxos.config import format_size
from mpaxos.version import __version__

ORIGINALS = """\
| 100 clients, restart 2 s after the kill, from process start | in step | longest stall |
|---|---|---|
| mPaxosSM, log kept long enough: 100 MB / 1 GB | 0.67 s / 0.92 s | 0.08 s |
| mPaxosSM, log truncated (its default): 100 MB | 7.5 s, or not within 14 s | 0.9 to 4.4 s |
| mPaxosSM, log truncated: 1 GB | not within 20 s | 5.6 s |
| JPaxos FullSS / EpochSS / Pmem: 100 MB | 2.9 / 1.5 / 1.2 s | 0.3 s |
| mPaxosSM, leader killed: defaults / suspect after 200 ms / 100 ms | | 1.7 / 0.44 / 0.06 s |
| etcd, ZooKeeper, PySyncObj, leader killed | 1.5 / 1.0 to 2.9 / 0.8 s | \
1.2 to 1.5 / 0.4 to 0.7 / 1.7 s |
"""


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """One aim, and whether it is met; `measured` is None where nothing of it was measured."""

    text: str
    limit: float
    unit: str
    measured: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is; None when it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


class Findings(msgspec.Struct, kw_only=True):
    """Everything that was measured in one go."""

    machine: str
    date: str
    version: str
    command: str
    runs: list[Run] = []
    steady: Steady | None = None
    transfer: Transfer | None = None


def findings() -> Findings:
    """Nothing measured yet."""
    return Findings(
        machine=machine_text(),
        date=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        command=" ".join(["python -m bench.recovery", *sys.argv[1:]]),
    )


def aims(found: Findings) -> list[Aim]:
    """The project's aims, which are those of pmem + persistent."""
    runs = sorted((r for r in found.runs if r.setting == "pmem+persistent"), key=lambda r: r.size)
    texts: list[Aim] = []
    for run in runs:
        of = {outcome.fault: outcome for outcome in run.outcomes}
        size = format_size(run.size)
        texts += [
            _time(f"{size}: in step, nothing missed", 0.25, of.get(IDLE), stall=False),
            _time(f"{size}: {LEADER_KILLED}, stall", 0.15, of.get(LEADER_KILLED), stall=True),
            _time(f"{size}: {LEADER_FROZEN}, stall", 0.7, of.get(LEADER_FROZEN), stall=True),
        ]
    if len(runs) > 1:
        text = f"in step with {format_size(runs[-1].size)}, of that with "
        text += format_size(runs[0].size)
        times = [_in_step(run, IDLE) for run in (runs[0], runs[-1])]
        ratio = times[1] / times[0] if times[0] and times[1] else None
        texts.append(Aim(text=f"{text}, nothing missed", limit=1.2, unit="", measured=ratio))
        times = [_in_step(run, FOLLOWER_KILLED) for run in (runs[0], runs[-1])]
        ratio = times[1] / times[0] if times[0] and times[1] else None
        texts.append(Aim(text=f"{text}, under load", limit=1.2, unit="", measured=ratio))
    if found.steady is not None:
        text = f"leader changes in {found.steady.minutes:g} min of full load beside a hog"
        texts.append(Aim(text=text, limit=0, unit="", measured=found.steady.changes))
    if found.transfer is not None:
        t = found.transfer
        size = f"transfer of {format_size(t.size)}"
        copies = t.in_step / t.copy if t.copy else None
        texts += [
            Aim(text=f"{size}: longest stall", limit=0.05, unit="s", measured=t.stall),
            Aim(text=f"{size}: throughput", limit=0.5, unit="", measured=t.ratio, at_least=True),
            Aim(text=f"{size}: in step, of a plain copy", limit=3, unit="", measured=copies),
        ]
    return texts


def _time(text: str, limit: float, outcome: Outcome | None, *, stall: bool) -> Aim:
    measured = None if outcome is None else outcome.stall if stall else outcome.in_step
    return Aim(text=text, limit=limit, unit="s", measured=measured)


def _in_step(run: Run, fault: str) -> float | None:
    return next((o.in_step for o in run.outcomes if o.fault == fault), None)


HEAD = ("setting", "state", "fault", "in step", "missed", "longest stall", "before", "after")


def rows(found: Findings) -> list[list[str]]:
    """The table, a row for each fault, with the columns of HEAD."""
    return [
        [
            run.setting,
            format_size(run.size),
            outcome.fault,
            milliseconds(outcome.in_step),
            f"{outcome.missed:,}",
            _stall(outcome),
            f"{outcome.before:,.0f}/s" if outcome.before else "",
            f"{outcome.after:,.0f}/s" if outcome.before else "",
        ]
        for run in found.runs
        for outcome in run.outcomes
    ]


def _stall(outcome: Outcome) -> str:
    if outcome.fault == IDLE:
        return ""
    return milliseconds(outcome.stall) if outcome.stall else "< 10 ms"


def aim_rows(found: Findings) -> list[list[str]]:
    """The aims as a table: aim, limit, measured, met."""
    words = {True: "yes", False: "no", None: ""}
    return [
        [
            aim.text,
            f"{'at least' if aim.at_least else 'at most'} {aim.limit:g} {aim.unit}".strip(),
            "not measured" if aim.measured is None else f"{aim.measured:.3g} {aim.unit}".strip(),
            words[aim.met],
        ]
        for aim in aims(found)
    ]


def transfer_text(t: Transfer) -> str:
    """The transfer in a sentence."""
    return (
        f"A follower replaced (`mpaxos init --replace`) with a state of {format_size(t.size)} "
        f"({format_size(t.state)} with what the store adds), {t.connections} clients: in step "
        f"after {t.in_step:.2f} s, a plain copy of as many bytes over loopback takes "
        f"{t.copy:.2f} s, to reserve a file as large as the pool and to copy them into it "
        f"{t.fresh:.2f} s; longest stall {1000 * t.stall:.0f} ms; throughput "
        f"{t.during:,.0f}/s, undisturbed {t.before:,.0f}/s."
    )


def steady_text(s: Steady) -> str:
    """The steady run in a sentence."""
    return (
        f"{s.connections} clients in a closed loop for {s.minutes:g} minutes, beside a process "
        f"that only computes: {s.changes} leader changes, {s.throughput:,.0f}/s, longest stall "
        f"{1000 * s.stall:.0f} ms."
    )


def _markdown(head: tuple[str, ...], lines: list[list[str]]) -> list[str]:
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*table, *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def write(found: Findings, output: Path) -> None:
    """RECOVERY.md, recovery.json and a plot for each setting, in `output`. Raises ConfigError."""
    text = [
        "# Recovery",
        "",
        "Written by `make bench-recovery`. Three replicas and the load generator on one machine; "
        "closed-loop clients spread over all replicas put values of 1 KiB all over the state. "
        "Replicas are killed (SIGKILL) or frozen (SIGSTOP), and restarted or thawed 2 s later; "
        "*all killed* are restarted at once. *In step*: from process start, interpreter and "
        "imports counted, or thaw, until all that the others had decided then is applied. "
        "*Missed*: commands answered meanwhile. *Longest stall*: no answer to anybody. "
        "*Before*, *after*: throughput. Clients of a frozen replica "
        "wait for it: they have no timeout.",
        "",
        f"{found.date}, mpaxos {found.version}, `{found.command}`\\",
        found.machine,
        "",
        *_markdown(HEAD, rows(found)),
    ]
    text += [transfer_text(found.transfer), ""] if found.transfer else []
    text += [steady_text(found.steady), ""] if found.steady else []
    text += ["## The aims", "", *_markdown(("aim", "wanted", "measured", "met"), aim_rows(found))]
    text += ["## What the originals do on the same kind of machine", "", ORIGINALS]
    for name in dict.fromkeys(run.setting for run in found.runs):
        text += [f"![{name}]({_plot(found, name, output).as_posix()})", ""]
    output.mkdir(parents=True, exist_ok=True)
    (output / "RECOVERY.md").write_text("\n".join(text).rstrip() + "\n")
    (output / "recovery.json").write_bytes(msgspec.json.encode(found) + b"\n")


def _plot(found: Findings, setting: str, output: Path) -> Path:
    """Draw a setting, a panel for each size; its path below `output`."""
    path = Path("plots") / f"recovery-{setting.replace('+', '-')}.svg"
    (output / path).parent.mkdir(parents=True, exist_ok=True)
    panels = []
    for run in found.runs:
        if run.setting != setting:
            continue
        points = [(i * run.interval, n / run.interval) for i, n in enumerate(run.series)]
        line = plots.Line(f"state of {format_size(run.size)}", points)
        panels.append((line, [(event.at, event.text) for event in run.events]))
    plots.draw_events(f"{setting}: answers per second", panels, output / path)
    return path
