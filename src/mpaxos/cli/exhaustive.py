"""`mpaxos exhaustive`: searches every run of small worlds over the real protocol."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mpaxos.cli.errors import FAILED, OK
from mpaxos.compiled import PURE
from mpaxos.errors import ConfigError
from mpaxos.sim.exhaustive import SCOPES, Outcome, search


def exhaustive(scopes: list[str], states: int, seed: int, jobs: int, *, as_json: bool) -> int:
    """Search each of `scopes` up to `states` states; 0 when all promises were kept, else 1."""
    for name in scopes:
        if name not in SCOPES:
            raise ConfigError(f"--scope {name}: unknown; there are {', '.join(SCOPES)}")
    if states < 1:
        raise ConfigError(f"--states {states}: at least 1")
    console = Console(stderr=as_json)
    outcomes: list[Outcome] = []
    # The search compares, copies and goes back to objects as a whole: it needs the sources.
    os.environ[PURE] = "1"
    workers = min(jobs or len(os.sched_getaffinity(0)), len(scopes))
    with (
        _progress(console) as progress,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        task = progress.add_task("scopes", total=len(scopes))
        running: set[Future[Outcome]] = {
            pool.submit(_search, name, states, seed) for name in scopes
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes.append(future.result())
                progress.advance(task)
                if as_json:
                    print(msgspec.json.encode(outcomes[-1]).decode(), flush=True)
                elif not console.is_terminal:
                    console.print(f"{outcomes[-1].scope}: {outcomes[-1].states:,} states")
    if not as_json:
        _show(console, outcomes)
    return FAILED if any(outcome.violation for outcome in outcomes) else OK


def _search(name: str, states: int, seed: int) -> Outcome:
    return search(SCOPES[name], states, seed=seed)


def _show(console: Console, outcomes: list[Outcome]) -> None:
    table = Table(title="every run of small worlds, over the real protocol")
    for heading in ("scope", "world"):
        table.add_column(heading)
    for heading in ("states", "transitions", "replica states", "messages", "s", ""):
        table.add_column(heading, justify="right")
    for outcome in sorted(outcomes, key=lambda outcome: list(SCOPES).index(outcome.scope)):
        verdict = "VIOLATED" if outcome.violation else "all" if outcome.finished else "cut"
        table.add_row(
            outcome.scope,
            SCOPES[outcome.scope].text,
            f"{outcome.states:,}",
            f"{outcome.transitions:,}",
            f"{outcome.node_states:,}",
            f"{outcome.messages:,}",
            f"{outcome.seconds:.1f}",
            verdict,
        )
    console.print(table)
    total = sum(outcome.states for outcome in outcomes)
    console.print(f"{total:,} distinct states in {len(outcomes)} scopes", highlight=False)
    for outcome in outcomes:
        if outcome.violation:
            console.print(f"\n{outcome.scope}:\n{outcome.violation}", markup=False, soft_wrap=True)
            console.print(f"  again: mpaxos exhaustive --scope {outcome.scope}", markup=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
