"""Every combination of durability and machine in the simulated world, one trouble at a time.

test_sim draws everything from a seed and mixes it. Here each cell of the matrix is run for itself,
and it is counted that its trouble did happen. A volatile machine over a log that survives is that
of tests.sim.late: a crash takes its state back to a snapshot.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from mpaxos.core.settings import MILLISECOND
from mpaxos.sim import world as sim_world
from mpaxos.sim.nemesis import Nemesis
from mpaxos.sim.world import Plan, World
from tests.sim.late import LateWorld
from tests.sim.test_transfer import short_logs

SEEDS = 6

COMBINATIONS = [
    ("pmem", "persistent"),
    ("pmem", "volatile"),
    ("disk", "volatile"),
    ("view", "volatile"),
    ("epoch", "volatile"),
    ("none", "volatile"),
]


class OneKind(Nemesis):
    """Strikes with one fault, and counts how often it did something."""

    kind = "load"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._faults = [getattr(self, self.kind)]
        self.happened = 0

    def load(self) -> None:
        self.happened += 1

    def kill_a_follower(self) -> None:
        self._kill(lambda node: not node.replica.is_leader)

    def kill_the_leader(self) -> None:
        self._kill(lambda node: node.replica.is_leader)

    def _kill(self, wanted: Callable[[Any], bool]) -> None:
        nodes = [node for node in self._world.nodes if node.alive and wanted(node)]
        # One that does not come back must not be the last that is not needed.
        gone = sum(node.lost for node in self._world.nodes)
        spare = self._world.plan.durability != "none" or 2 * gone + 2 < len(self._world.nodes)
        if nodes and spare and nodes[0].may_crash():
            self._world.crash(nodes[0], self.kind)
            self.happened += 1

    def kill_all(self) -> None:
        # Counted where all were there, and not when those few die again that had come back.
        self.happened += all(node.alive for node in self._world.nodes)
        self.crash_all()

    def cut_off_the_leader(self) -> None:
        self.heal()
        for node in self._world.nodes:
            if node.alive and node.replica.is_leader:
                self._cut_off(node.id)
                self.happened += 1
                return

    def lag_behind(self) -> None:
        """A replica is away for long. What counts is that it needs the whole state then."""
        self.heal()
        self._cut_off(self._world.rng.randrange(self._world.plan.replicas))

    def wipe(self) -> None:
        node = self._world.rng.choice(self._world.nodes)
        if node.alive and not node.lost and self._world.may_forget(node):
            self._world.crash(node, "replaced by an empty one")
            node.lost = False  # an operator lets a new one begin, where the old one may not
            node.replace()
            self.happened += 1


CASES = [
    "load",
    "kill_a_follower",
    "kill_the_leader",
    "kill_all",
    "cut_off_the_leader",
    "lag_behind",
    "wipe",
]


KEEPING = ("pmem", "disk")

KILLING = ("kill_a_follower", "kill_the_leader")

TRANSFERRING = ("lag_behind", "wipe")
"""Logs are short here: some must need the whole state."""


class Ran(NamedTuple):
    """What happened in one run, or in several."""

    happened: int
    acknowledged: int
    still: int
    """Runs in which, rightly, nobody went on."""
    recoveries: int
    switches: int
    """States received."""
    set_back: int
    """Replicas that began with the state of a snapshot."""


def planned(case: str, draw: Callable[..., Plan]) -> Callable[..., Plan]:
    """Plans of one cell: the faults and what they need."""
    short = short_logs(draw)

    def drawn(rng: random.Random, memory: random.Random, replicas: int, durability: str) -> Plan:
        make = short if case in TRANSFERRING else draw
        forgets_all = case == "kill_all" and durability not in KEEPING
        return msgspec.structs.replace(
            make(rng, memory, replicas, durability),
            rot=False,
            keeps_state=durability in KEEPING,
            replaces=case == "wipe",
            reckless=forgets_all,
            faults_for=rng.randrange(800, 1600) * MILLISECOND,
        )

    return drawn


def run(seed: int, durability: str, machine: str, case: str) -> Ran:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sim_world, "draw_plan", planned(case, sim_world.draw_plan))
        patch.setattr(sim_world, "Nemesis", type("Only", (OneKind,), {"kind": case}))
        make = LateWorld if durability in KEEPING and machine == "volatile" else World
        world = make(seed, 5 if seed % 2 else 3, durability=durability)
        report = world.run()
    assert report.failure is None, f"seed {seed}: {report.failure}"
    assert isinstance(world.nemesis, OneKind)
    switches = report.faults.get("switch", 0)
    return Ran(
        switches if case == "lag_behind" else world.nemesis.happened,
        report.acknowledged,
        report.stood_still,
        report.recoveries,
        switches,
        world.set_back if isinstance(world, LateWorld) else 0,
    )


CELLS = [
    (durability, machine, case)
    for durability, machine in COMBINATIONS
    for case in CASES
    # Then nobody comes back; on real processes it is tested that each is refused.
    if (durability, case) != ("none", "kill_all")
]


@pytest.mark.parametrize(("durability", "machine", "case"), CELLS)
def test_a_cell(durability: str, machine: str, case: str) -> None:
    runs = [run(seed, durability, machine, case) for seed in range(SEEDS)]
    total = Ran(*(sum(column) for column in zip(*runs, strict=True)))
    # Who is away for long does not always miss more than the logs have.
    least = SEEDS // 2 if case == "lag_behind" else SEEDS
    assert total.happened >= least, f"{case} happened {total.happened} times in {SEEDS} runs"
    assert total.acknowledged > SEEDS
    # Where all forgot, none may pretend that it knows what was decided.
    assert (total.still > 0) == (case == "kill_all" and durability in ("view", "epoch"))
    # Who forgot has recovered before it took part again.
    forgot = case == "wipe" or (case in KILLING and durability in ("view", "epoch"))
    assert total.recoveries > 0 or not forgot
    # Who lacked more than the logs had has received a state.
    assert case not in TRANSFERRING or total.switches > 0
    # A state in DRAM came from a snapshot.
    lost = machine == "volatile" and durability in KEEPING and "kill" in case
    assert total.set_back > 0 or not lost
