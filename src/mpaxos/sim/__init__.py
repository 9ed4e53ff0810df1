"""The simulated world: the product's protocol, loop and machines under simulated network, storage
and clocks, with faults drawn from a seed. See World, and `mpaxos sim --help`."""

from __future__ import annotations

from collections.abc import Callable

from mpaxos.sim.store import DURABILITIES
from mpaxos.sim.world import Plan, Report, World

__all__ = ["DURABILITIES", "Plan", "Report", "World", "replay", "run"]


def replay(report: Report) -> str:
    """The command that shows a run again, event by event."""
    return (
        f"mpaxos sim --seed {report.seed} --replicas {report.replicas} "
        f"--durability {report.durability} --trace"
    )


def run(
    seed: int,
    replicas: int = 3,
    *,
    durability: str = "",
    trace: Callable[[str], None] | None = None,
) -> Report:
    """Run one seed; the same seed gives the same run. `durability` is one of DURABILITIES, empty:
    drawn from the seed as well. `trace` gets a line for each event."""
    return World(seed, replicas, durability=durability, trace=trace).run()
