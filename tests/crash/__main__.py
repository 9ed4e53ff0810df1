"""`python -m tests.crash`: crash points of persistent memory, from a shell."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.crash.mutants import MUTANTS, Mutant, Verdict, try_mutant
from tests.crash.runner import Options, Outcome, examine, reproduce
from tests.crash.workloads import SCRIPTS

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help=__doc__, rich_markup_mode="markdown"
)
console = Console(stderr=True)

JSON = Annotated[bool, typer.Option("--json", help="one JSON object per workload or mutant")]
SEED = Annotated[int, typer.Option(help="of the workloads and of what is sampled")]
CORES = os.cpu_count() or 1
JOBS = Annotated[int, typer.Option(help="processes; one per core is best")]
LENGTH = Annotated[float, typer.Option(help="of the workloads: 1 is full length")]


def bar() -> Progress:
    """A progress bar, on a terminal only; it goes to standard error."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn())
    quiet = not console.is_terminal
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=quiet)


@app.command()
def run(
    workloads: Annotated[
        list[str] | None, typer.Argument(help=f"of {', '.join(SCRIPTS)}; all when none is named")
    ] = None,
    images: Annotated[
        int, typer.Option(help="budget for all together; 0: all combinations up to twelve lines")
    ] = 100_000,
    seed: SEED = 0,
    length: LENGTH = 1.0,
    jobs: JOBS = CORES,
    as_json: JSON = False,
) -> None:
    """Crash at every fence, reopen every image.

    A workload is recorded once. At each of its fences, and whenever it is told that something is
    done, a power failure could leave any combination of the lines that were not durable yet: each
    is made, opened by the real code, and compared with what the workload was told. Fails when one
    image is not recovered, with the command that shows it again.

    In the table: points are crash points, exhausted those of which every combination was tried;
    again are crashes of a recovery, torn have lines of which words are missing, flipped have a
    flipped bit and must be refused.
    """
    unknown = sorted(set(workloads or []) - set(SCRIPTS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(SCRIPTS)}")
    names = workloads or list(SCRIPTS)
    began = time.monotonic()
    with bar() as progress:
        tasks = {name: progress.add_task(name, total=None) for name in names}

        def moved(name: str, done: int, total: int) -> None:
            progress.update(tasks[name], completed=done, total=total)

        options = Options(images, jobs, length)
        outcomes = examine(names, seed, options, moved)
    if as_json:
        for outcome in outcomes:
            print(msgspec.json.encode(plain(outcome)).decode())
    else:
        # As wide as the table is: it is also read in the logs of continuous integration.
        Console(width=max(100, console.width)).print(table(outcomes))
        print(summary(outcomes, time.monotonic() - began))
    for failure in [failure for outcome in outcomes for failure in outcome.failures]:
        print(f"\n{failure.text}\nreproduce: {failure.command}", file=sys.stderr)
    raise typer.Exit(any(outcome.failures for outcome in outcomes))


def plain(outcome: Outcome) -> dict[str, object]:
    """An outcome for --json."""
    skipped = ("identities", "failures")
    made = {name: value for name, value in vars(outcome).items() if name not in skipped}
    made["failures"] = [
        {"case": each.case, "text": each.text, "reproduce": each.command}
        for each in outcome.failures
    ]
    return made


def table(outcomes: list[Outcome]) -> Table:
    """Outcomes for a person."""
    made = Table(box=None, padding=(0, 0, 0, 1))
    heads = "operations", "points", "exhausted", "images", "distinct", "again", "torn", "flipped"
    for head in ("workload", *heads, "failed", "s"):
        made.add_column(head, justify="left" if head == "workload" else "right", no_wrap=True)
    for o in outcomes:
        numbers = (o.operations, o.points, o.exhausted, o.images, o.distinct, o.again, o.torn)
        cells = [f"{number:,}" for number in (*numbers, o.damaged, len(o.failures))]
        made.add_row(o.workload, *cells, f"{o.seconds:.0f}")
    return made


def summary(outcomes: list[Outcome], seconds: float) -> str:
    """One line about all of it."""
    total = {
        name: sum(getattr(o, name) for o in outcomes)
        for name in ("points", "exhausted", "distinct", "again", "checked_before", "checked_after")
    }
    failed = sum(len(o.failures) for o in outcomes)
    return (
        f"{total['distinct']:,} distinct images of {total['points']:,} crash points "
        f"({total['exhausted']:,} with every combination), {total['again']:,} of crashed "
        f"recoveries, pmemobj_check of {total['checked_before']:,} as left and "
        f"{total['checked_after']:,} recovered, {failed} failed, {seconds:.0f} s"
    )


@app.command("reproduce")
def reproduce_command(
    workload: Annotated[str, typer.Argument(help=f"one of {', '.join(SCRIPTS)}")],
    case: Annotated[str, typer.Argument(help="the image, as a failure printed it")],
    seed: SEED = 0,
    length: LENGTH = 1.0,
    keep: Annotated[
        Path | None, typer.Option(help="existing directory in which to leave the image")
    ] = None,
) -> None:
    """Examine one image again, and keep it for a look when asked to."""
    target = None if keep is None else keep.absolute() / f"{workload}.image"
    wrong = reproduce(workload, seed, length, case, target)
    if target is not None:
        print(f"the image is {target}")
    print(wrong or "this image is recovered as it must be")
    raise typer.Exit(wrong is not None)


@app.command()
def mutants(
    names: Annotated[
        list[str] | None, typer.Argument(help="words of the mutants' names; all when none is given")
    ] = None,
    seed: SEED = 0,
    jobs: JOBS = CORES,
    as_json: JSON = False,
) -> None:
    """Break the storage code on purpose, once for each mutant: the check must notice."""
    chosen = [m for m in MUTANTS if not names or any(word in m.name for word in names)]
    began = time.monotonic()
    verdicts = []
    with bar() as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("mutants", total=len(chosen))
        for verdict in pool.map(lambda mutant: tried(mutant, seed), chosen):
            verdicts.append(verdict)
            progress.advance(task)
            if as_json:
                made = {"mutant": verdict.mutant.name, "caught": verdict.caught}
                made |= {"images": verdict.outcome.images, "seconds": verdict.seconds}
                print(msgspec.json.encode(made | {"how": verdict.how}).decode())
            else:
                print(f"{'caught' if verdict.caught else 'MISSED'}  {verdict.mutant.name}")
                print(f"        {verdict.outcome.images} images: {verdict.how}")
    missed = sum(not verdict.caught for verdict in verdicts)
    if not as_json:
        seconds = time.monotonic() - began
        print(f"{len(verdicts)} mutants, {missed} not caught, {seconds:.0f} s")
    raise typer.Exit(missed > 0)


def tried(mutant: Mutant, seed: int) -> Verdict:
    """try_mutant() in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mpaxos-mutant-") as directory:
        return try_mutant(mutant, Path(directory), seed)


if __name__ == "__main__":
    app(prog_name="python -m tests.crash")
