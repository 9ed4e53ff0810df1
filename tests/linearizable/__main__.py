"""`python -m tests.linearizable`: runs real clusters under faults and judges their histories."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from mpaxos.local import KV
from mpaxos.sim.linearizability import KeyValueModel, Operation, Verdict, check
from mpaxos.sim.timeline import timeline
from tests.linearizable.rig import Plan, Result, run

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help=__doc__, no_args_is_help=False
)
console = Console(stderr=True)


def save(history: list[Operation], verdict: Verdict, keep: Path) -> None:
    """Write history.jsonl and, when it is not linearizable, timeline.html into `keep`."""
    keep.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(operation) for operation in history]
    (keep / "history.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    if not verdict.ok:
        (keep / "timeline.html").write_text(timeline(verdict))


def load(path: Path) -> list[Operation]:
    """A history that save() wrote."""
    history = []
    for line in path.read_bytes().splitlines():
        process, action, result, invoked, returned = msgspec.json.decode(line)
        history.append(Operation(process, tuple(action), result, invoked, returned))
    return history


def in_text(history: list[Operation]) -> list[Operation]:
    """Values as text, so that a history reads the same from a file."""

    def text(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(text(item) for item in value)
        return value.decode() if isinstance(value, bytes) else value

    return [
        msgspec.structs.replace(o, action=text(o.action), result=text(o.result)) for o in history
    ]


def judge(history: list[Operation]) -> Verdict:
    return check(history, KeyValueModel(), key=lambda operation: operation.action[1])


def run_kept(plan: Plan, keep: Path | None, progress: Progress | None = None) -> Result:
    """One run; what failed is kept in `keep`, or in a new directory under the present one."""
    shared = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(prefix="mpaxos-lin-", dir=shared if shared.is_dir() else None))
    try:
        task = progress.add_task(f"seed {plan.seed}", total=plan.operations) if progress else None
        result = run(
            plan, base, lambda more: progress.advance(task, more) if progress and task else None
        )
        result.history = in_text(result.history)
        result.verdict = judge(result.history)
        if keep is not None or not result.verdict.ok:
            place = keep or Path.cwd() / f"linearizable-{plan.seed}"
            save(result.history, result.verdict, place)
            for log in base.glob("*.log"):
                shutil.copy(log, place)
        return result
    finally:
        shutil.rmtree(base, ignore_errors=True)


def report(result: Result) -> str:
    verdict = result.verdict
    faults = ", ".join(f"{name} {times}" for name, times in sorted(result.faults.items()))
    return (
        f"seed {result.plan.seed}, {result.plan.replicas} replicas: {len(result.history):,} "
        f"operations, {result.answered:.1%} answered, {verdict.configurations:,} configurations "
        f"in {verdict.seconds:.2f} s, run {result.seconds:.1f} s; faults: {faults}: "
        + ("linearizable" if verdict.ok else f"NOT LINEARIZABLE: {verdict.text}")
    )


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    runs: Annotated[int, typer.Option(help="How many.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the first run; the next ones count up.")] = 1,
    operations: Annotated[int, typer.Option(help="Of each run.")] = 10_000,
    replicas: Annotated[int, typer.Option(help="3 or 5; 0: every third run has 5.")] = 0,
    service: Annotated[str, typer.Option(help="MODULE:CLASS with the requests of kv.")] = KV,
    keep: Annotated[Path | None, typer.Option(help="Keep histories and logs here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per run.")] = False,
) -> None:
    """Run clusters behind the fault proxy and judge what their clients saw."""
    if context.invoked_subcommand is not None:
        return
    failed = 0
    with Progress(console=console, disable=not console.is_terminal) as progress:
        for number in range(seed, seed + runs):
            size = replicas or (5 if number % 3 == 0 else 3)
            plan = Plan(seed=number, operations=operations, replicas=size, service=service)
            result = run_kept(plan, keep and keep / str(number), progress)
            if as_json:
                plain = msgspec.structs.replace(result, history=[])
                plain.verdict.part = []
                print(msgspec.json.encode(plain).decode(), flush=True)
            else:
                console.print(report(result), highlight=False, soft_wrap=True)
            if not result.verdict.ok:
                failed += 1
                place = (keep and keep / str(number)) or f"linearizable-{number}"
                console.print(f"  judge again: python -m tests.linearizable judge {place}")
                console.print(
                    f"  run again: python -m tests.linearizable --seed {number} --runs 1 "
                    f"--replicas {size} --operations {operations}"
                )
    sys.exit(1 if failed else 0)


@app.command("judge")
def judge_again(directory: Path) -> None:
    """Judge a kept history once more, and draw it."""
    history = load(directory / "history.jsonl")
    verdict = judge(history)
    save(history, verdict, directory)
    print("linearizable" if verdict.ok else f"{verdict.text}; see {directory / 'timeline.html'}")
    sys.exit(0 if verdict.ok else 1)


if __name__ == "__main__":
    app()
