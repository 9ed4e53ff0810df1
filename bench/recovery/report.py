"""The outcome as a page of tables and plots."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import msgspec

from bench.recovery.cases import Outcome, Run
from mpaxos.bench import plots
from mpaxos.bench.usage import machine_text
from mpaxos.config import format_size
from mpaxos.version import __version__

ORIGINALS = """\
| the originals on comparable machines, 100 clients | in step | longest stall |
|---|---:|---:|
| mPaxosSM, log kept long enough: 100 MB / 1 GB | 0.67 s / 0.92 s | 0.08 s |
| mPaxosSM, log truncated (its default): 100 MB | 7.5 s or never | 0.9 to 4.4 s |
| mPaxosSM, log truncated: 1 GB | not within 20 s | 5.6 s |
| JPaxos FullSS / EpochSS / Pmem, 100 MB | 2.9 / 1.5 / 1.2 s | 0.3 s |
| mPaxosSM, leader killed, defaults / suspect after 200 ms / 100 ms | | 1.7 s / 0.44 s / 0.06 s |
| etcd / ZooKeeper / PySyncObj, leader killed | 1.5 / 1 to 2.9 / 0.8 s | 1.5 / 0.7 / 1.7 s |
"""


class Aim(msgspec.Struct, frozen=True):
    """One of the project's aims, and whether it was met; None: not measured."""

    text: str
    wanted: float
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it was; None: not measured."""
        return None if self.measured is None else self.measured <= self.wanted


def aims(runs: list[Run]) -> list[Aim]:
    """Those of the setting pmem + persistent. Times in seconds."""
    persistent = [run for run in runs if run.setting == "pmem + persistent"]
    found = {(run.size, o.case): o for run in persistent for o in run.outcomes}
    sizes = sorted({size for size, _ in found})
    if not sizes:
        return []

    def of(size: int, case: str) -> Outcome | None:
        return found.get((size, case))

    least, most = sizes[0], sizes[-1]
    small, large = of(least, "a follower is killed"), of(most, "a follower is killed")
    killed, frozen = of(least, "the leader is killed"), of(least, "the leader is frozen")
    ratio = large.in_step / small.in_step if small and large and least != most else None
    return [
        Aim(
            "killed follower in step, beside what it missed", 0.25, small.in_step if small else None
        ),
        Aim(f"in step with {format_size(most)}, of {format_size(least)}", 1.2, ratio),
        Aim("stall, leader killed", 0.15, killed.stall if killed else None),
        Aim("stall, leader frozen", 0.70, frozen.stall if frozen else None),
    ]


def table(runs: list[Run]) -> str:
    """All runs as a Markdown table."""
    lines = [
        "| setting | state | case | in step | longest stall | before | after |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for run in runs:
        for o in run.outcomes:
            cells = [
                run.setting,
                format_size(run.size),
                o.case,
                f"{1000 * o.in_step:.0f} ms",
                f"{1000 * o.stall:.0f} ms",
                f"{o.before / 1000:.1f} k/s",
                f"{o.after / 1000:.1f} k/s",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(runs: list[Run], connections: int, output: Path) -> None:
    """RECOVERY.md, recovery.json and a plot for each run, in `output`. Raises ConfigError."""
    words = " ".join(["python -m bench.recovery", *sys.argv[1:]])
    date = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = [
        "# How long clients wait",
        "",
        "Written by `make bench-recovery`. Three replicas and the load generator on one machine; "
        f"{connections} closed-loop clients, puts of 128 B, spread over the replicas. A replica "
        "is killed (SIGKILL) or frozen (SIGSTOP) after 2 s, and restarted or thawed 2 s later. "
        "*In step*: from process start, interpreter and imports counted, until it had applied "
        "what was decided when it came. *Longest stall*: without an answer to anybody.",
        "",
        f"{date}, mpaxos {__version__}, `{words}`\\",
        machine_text(),
        "",
        table(runs),
        "",
        ORIGINALS,
        "| aim | at most | measured | met |",
        "|---|---:|---:|---|",
    ]
    for aim in aims(runs):
        measured = "not measured" if aim.measured is None else f"{aim.measured:.2f}"
        met = {True: "yes", False: "no", None: ""}[aim.met]
        text.append(f"| {aim.text} | {aim.wanted:.2f} | {measured} | {met} |")
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for run in runs:
        name = f"recovery-{run.setting.replace(' + ', '-')}-{run.size >> 20}.svg"
        rows = [(plots.Line(o.case, o.curve), o.events) for o in run.outcomes]
        title = f"{run.setting}, state of {format_size(run.size)}: answers over time"
        plots.draw_over_time(title, rows, output / "plots" / name)
        text += ["", f"![{title}](plots/{name})"]
    (output / "RECOVERY.md").write_text("\n".join(text) + "\n")
    (output / "recovery.json").write_bytes(msgspec.json.encode(runs) + b"\n")
