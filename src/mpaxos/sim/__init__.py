"""The simulated world: the product's protocol, loop and machines under simulated network, storage
and clocks, with faults drawn from a seed. See World, and `mpaxos sim --help`."""

from __future__ import annotations

from collections.abc import Callable

from mpaxos.sim.world import Plan, Report, World

__all__ = ["Plan", "Report", "World", "run"]


def run(seed: int, replicas: int = 3, *, trace: Callable[[str], None] | None = None) -> Report:
    """Run one seed; the same seed gives the same run. `trace` gets a line for each event."""
    return World(seed, replicas, trace=trace).run()
