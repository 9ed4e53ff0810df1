"""`mpaxos sim`: runs seeds of the simulated world and says which failed, and how to replay them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from mpaxos.cli.errors import FAILED, OK
from mpaxos.errors import ConfigError
from mpaxos.sim import DURABILITIES, Report, replay, run

CHUNK = 25
"""Seeds handed to a worker process at a time."""


def simulate(
    seed: int,
    count: int,
    replicas: int,
    jobs: int,
    *,
    durability: str = "",
    trace: bool,
    as_json: bool,
) -> int:
    """Run `count` seeds from `seed` on; 0 when all kept the invariants, else 1.

    `replicas` 0: every third seed has five, the others three. `jobs` 0: one process per core.
    `durability` empty: each seed draws one.
    """
    if count < 1:
        raise ConfigError(f"--count {count}: at least 1")
    if replicas not in (0, 1, 3, 5, 7):
        raise ConfigError(f"--replicas {replicas}: must be 1, 3, 5 or 7, or 0 for a mixture")
    if durability not in ("", *DURABILITIES):
        known = ", ".join(DURABILITIES)
        raise ConfigError(f"--durability {durability}: must be one of {known}; all without it")
    console = Console()
    seeds = range(seed, seed + count)
    world = (replicas, durability)
    reports = _traced(seeds, *world) if trace else _spread(seeds, *world, jobs)
    began = time.monotonic()
    total = Report(0, 0)
    failed: list[Report] = []
    with _progress(console, hidden=trace or as_json or not console.is_terminal) as progress:
        task = progress.add_task("simulating", total=count)
        for report in reports:
            progress.advance(task)
            _add(total, report)
            if as_json:
                print(msgspec.json.encode(report).decode())
            if report.failure is not None:
                failed.append(report)
                if not as_json:
                    _show_failure(console, report)
    if not as_json:
        seconds = time.monotonic() - began
        faults = sum(total.faults.values())
        rate = count / max(seconds, 1e-9)
        console.print(
            f"{count:,} schedules in {seconds:.1f} s ({rate:.1f} per second): "
            f"{total.events:,} events, {total.simulated_seconds:,.0f} simulated seconds, "
            f"{faults:,} faults, {total.recoveries:,} recoveries of lost memory, {total.decided:,} "
            f"slots decided, {total.acknowledged:,} commands acknowledged, {len(failed)} failed",
            soft_wrap=True,
        )
    return FAILED if failed else OK


def _replicas(seed: int, replicas: int) -> int:
    return replicas or (5 if seed % 3 == 0 else 3)


def _chunk(seeds: range, replicas: int, durability: str) -> list[Report]:
    return [run(seed, _replicas(seed, replicas), durability=durability) for seed in seeds]


def _traced(seeds: range, replicas: int, durability: str) -> Iterator[Report]:
    for seed in seeds:
        yield run(seed, _replicas(seed, replicas), durability=durability, trace=print)


def _spread(seeds: range, replicas: int, durability: str, jobs: int) -> Iterator[Report]:
    workers = min(jobs or len(os.sched_getaffinity(0)), -(-len(seeds) // CHUNK))
    if workers == 1:
        for seed in seeds:
            yield run(seed, _replicas(seed, replicas), durability=durability)
        return
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_chunk, chunk, replicas, durability) for chunk in chunks]
        for future in as_completed(futures):
            yield from future.result()


def _add(total: Report, report: Report) -> None:
    total.events += report.events
    total.decided += report.decided
    total.recoveries += report.recoveries
    total.acknowledged += report.acknowledged
    total.simulated_seconds += report.simulated_seconds
    for fault, times in report.faults.items():
        total.faults[fault] = total.faults.get(fault, 0) + times


def _show_failure(console: Console, report: Report) -> None:
    console.print(f"seed {report.seed}: {report.failure}", markup=False, soft_wrap=True)
    console.print(f"  replay: {replay(report)}", markup=False, soft_wrap=True)


def _progress(console: Console, *, hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=hidden,
    )
