"""`python -m tests.soak`: millions of commands through a small pool, replicas away in turn."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from tests.soak.rig import MIB, Peaks, Plan, Soak

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)


@app.command()
def soak(
    commands: Annotated[int, typer.Option(help="In all.")] = 10_000_000,
    pool: Annotated[int, typer.Option(help="MiB of each replica's pool.")] = 512,
    rounds: Annotated[int, typer.Option(help="In each, one replica is away for a third.")] = 10,
    directory: Annotated[Path, typer.Option(help="On tmpfs; three pools must fit.")] = Path(
        "/dev/shm"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Put millions of commands through small pools and see that nothing grows.

    Three local replicas under load. In every round one of them is killed, or frozen, for the middle
    third of the commands, long enough that the others' logs are truncated beyond it: it comes back
    by state transfer. Logs, states, pools and the memory beside them are compared with their bounds
    four times a second, the states at the end with each other. The exit status is 1 when something
    grew or differs.

    python -m tests.soak --commands 1000000 --pool 128
    """
    plan = Plan(commands=commands, pool=pool, rounds=rounds)
    place = Path(tempfile.mkdtemp(prefix="mpaxos-soak-", dir=directory))
    with Progress(console=console, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("commands", total=commands)

        def tell(peaks: Peaks) -> None:
            bar.update(task, completed=peaks.commands)

        try:
            peaks = Soak(place, plan, tell).run()
        except AssertionError as error:
            console.print(
                f"[red]{error}[/]\nagain: python -m tests.soak --commands {commands} "
                f"--pool {pool} --rounds {rounds}"
            )
            raise typer.Exit(1) from None
        finally:
            shutil.rmtree(place, ignore_errors=True)
    if as_json:
        print(json.dumps(msgspec.to_builtins(peaks)))
        return
    print(
        f"{peaks.commands} commands in {peaks.seconds:.0f} s through pools of {pool} MiB: log at "
        f"most {peaks.log_used // MIB} of {peaks.log_size // MIB} MiB, state "
        f"{peaks.state_used // MIB} of {peaks.state_limit // MIB} MiB, memory beside the pool "
        f"{peaks.anonymous // MIB} MiB; {peaks.transfers} states transferred, longest stall "
        f"{peaks.longest_stall:.2f} s; all replicas equal"
    )


if __name__ == "__main__":
    app()
