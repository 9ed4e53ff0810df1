"""The outcome as JSON, and as a page of tables and plots."""

from __future__ import annotations

import datetime
import shlex
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
from bench.recovery.settings import SETTINGS
from bench.recovery.steady import Steady
from bench.recovery.transfer import Transfer
from bench.results import Origin
from mpaxos.bench import plots
from mpaxos.bench.usage import machine_text
from mpaxos.config import format_size
from mpaxos.errors import ConfigError
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


class RunPart(msgspec.Struct, frozen=True, kw_only=True):
    """All faults in one setting with one size."""

    origin: Origin
    found: Run


class SteadyPart(msgspec.Struct, frozen=True, kw_only=True):
    """The steady run."""

    origin: Origin
    found: Steady


class TransferPart(msgspec.Struct, frozen=True, kw_only=True):
    """The replaced replica."""

    origin: Origin
    found: Transfer


class Findings(msgspec.Struct, kw_only=True):
    """The latest of each part."""

    runs: list[RunPart] = []
    steady: SteadyPart | None = None
    transfer: TransferPart | None = None


def origin() -> Origin:
    """Here and now."""
    return Origin(
        machine=machine_text(),
        date=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        command=" ".join(["python -m bench.recovery", *map(shlex.quote, sys.argv[1:])]),
    )


def load(output: Path) -> Findings:
    """What earlier runs left; nothing when there is no such file. Raises ConfigError."""
    path = output / "recovery.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Findings)
    except FileNotFoundError:
        return Findings()
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not what this program wrote ({error}): remove it") from None


def merged(kept: Findings, found: Findings) -> Findings:
    """What was kept, but for the parts that were found anew."""
    parts = {(part.found.setting, part.found.size): part for part in [*kept.runs, *found.runs]}
    order = list(SETTINGS)
    keys = sorted(parts, key=lambda key: (order.index(key[0]), key[1]))
    return Findings(
        runs=[parts[key] for key in keys],
        steady=found.steady or kept.steady,
        transfer=found.transfer or kept.transfer,
    )


def aims(found: Findings) -> list[Aim]:
    """The project's aims, which are those of pmem + persistent."""
    runs = [part.found for part in found.runs if part.found.setting == "pmem+persistent"]
    runs.sort(key=lambda run: run.size)
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
        steady = found.steady.found
        text = f"leader changes in {steady.minutes:g} min of full load beside a hog"
        texts.append(Aim(text=text, limit=0, unit="", measured=steady.changes))
    if found.transfer is not None:
        t = found.transfer.found
        size = f"transfer of {format_size(t.size)}"
        copies = t.in_step / t.carried if t.carried else None
        texts += [
            Aim(text=f"{size}: longest stall", limit=0.05, unit="s", measured=t.stall),
            Aim(text=f"{size}: throughput", limit=0.5, unit="", measured=t.ratio, at_least=True),
            Aim(text=f"{size}: in step, of a copy", limit=3, unit="", measured=copies),
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
        for run in (part.found for part in found.runs)
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
    """The transfer in a few sentences."""
    rounds = "; ".join(
        f"in step after {r.in_step:.2f} s, {r.during:,.0f}/s of {r.before:,.0f}/s undisturbed "
        f"({r.ratio:.2f}), longest stall {1000 * r.stall:.0f} ms"
        for r in t.rounds
    )
    return (
        f"A follower replaced (`mpaxos init --replace`) with a state of {format_size(t.size)} "
        f"({format_size(t.state)} with what the store adds), {t.connections} clients, "
        f"{len(t.rounds)} times in a row: {rounds}. Of these the medians count, and the longest "
        f"stall. A copy of as many bytes without load (medians again) "
        f"takes {t.carried:.2f} s from a file in memory over loopback into a new file in memory "
        f"({_ratio(t.in_step, t.carried)}: this is what the aim is about). To send one buffer "
        f"again and again into another takes {t.copy:.2f} s "
        f"({_ratio(t.in_step, t.copy)}); to reserve a file as large as the pool and to copy them "
        f"into it, without a socket, {t.fresh:.2f} s."
    )


def _ratio(spent: float, copy: float) -> str:
    return f"in step after {spent / copy:.1f} of these" if copy else "too short to compare with"


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


def _origins(found: Findings) -> list[str]:
    """When, where and by which command each part was measured."""
    texts: dict[Origin, list[str]] = {}
    for part in found.runs:
        name = f"{part.found.setting} {format_size(part.found.size)}"
        texts.setdefault(part.origin, []).append(name)
    if found.transfer is not None:
        texts.setdefault(found.transfer.origin, []).append("transfer")
    if found.steady is not None:
        texts.setdefault(found.steady.origin, []).append("steady")
    return [
        f"- {', '.join(names)}: {origin.date}, mpaxos {origin.version}, `{origin.command}`, "
        f"{origin.machine}"
        for origin, names in texts.items()
    ]


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
        *_origins(found),
        "",
        *_markdown(HEAD, rows(found)),
    ]
    text += [transfer_text(found.transfer.found), ""] if found.transfer else []
    text += [steady_text(found.steady.found), ""] if found.steady else []
    text += ["## The aims", "", *_markdown(("aim", "wanted", "measured", "met"), aim_rows(found))]
    text += ["## What the originals do on the same kind of machine", "", ORIGINALS]
    for name in dict.fromkeys(part.found.setting for part in found.runs):
        text += [f"![{name}]({_plot(found, name, output).as_posix()})", ""]
    output.mkdir(parents=True, exist_ok=True)
    (output / "RECOVERY.md").write_text("\n".join(text).rstrip() + "\n")
    (output / "recovery.json").write_bytes(msgspec.json.encode(found) + b"\n")


def _plot(found: Findings, setting: str, output: Path) -> Path:
    """Draw a setting, a panel for each size; its path below `output`."""
    path = Path("plots") / f"recovery-{setting.replace('+', '-')}.svg"
    (output / path).parent.mkdir(parents=True, exist_ok=True)
    panels = []
    for run in (part.found for part in found.runs):
        if run.setting != setting:
            continue
        points = [(i * run.interval, n / run.interval) for i, n in enumerate(run.series)]
        line = plots.Line(f"state of {format_size(run.size)}", points)
        panels.append((line, [(event.at, event.text) for event in run.events]))
    plots.draw_events(f"{setting}: answers per second", panels, output / path)
    return path
