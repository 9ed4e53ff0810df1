"""The native part of the protocol broken on purpose: simulated runs must notice each way.

As in tests/crash/mutants.py one file is compiled and linked with the objects of the build; what
runs with it is tests/sim/steady_run.py.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.crash.mutants import Mutant, compile_mutant
from tests.crash.shim import ROOT

SEEDS = 150
"""Of each size of cluster, within which a mutant must be noticed."""


@dataclass(frozen=True)
class SteadyMutant:
    """`old` in `file` becomes `new`. `seen_by`: the invariants of the simulated world, or the
    comparison with the protocol (tests/sim/twin.py)."""

    name: str
    old: str
    new: str
    seen_by: str = "world"
    file: str = "steady.cpp"

    @property
    def mutant(self) -> Mutant:
        return Mutant(self.name, self.file, self.old, self.new, workload="")


MUTANTS = [
    SteadyMutant(
        "a minority decides",
        "if (votes < majority_ && next.slot > at_.said) return;",
        "if (votes + 1 < majority_ && next.slot > at_.said) return;",
    ),
    SteadyMutant(
        "what is accepted is not written",
        "  turn_.records.push_back({slot, time, item});\n",
        "",
    ),
    SteadyMutant(
        "messages of any ballot count",
        "  if (!steady.of_ballot(round, leader)) return false;\n",
        "",
        seen_by="twin",
        file="bind_steady.cpp",
    ),
    SteadyMutant(
        "a read without a quorum",
        "  if (confirmed < majority_) return;\n",
        "",
        seen_by="twin",
    ),
    SteadyMutant(
        "a read confirmed by an old heartbeat",
        "at_.peers[peer].acked >= at_.asked_beat",
        "at_.peers[peer].acked + 1 >= at_.asked_beat",
        seen_by="twin",
    ),
    SteadyMutant(
        "a read at the last decided slot",
        "at_.waiting.push_back({std::move(item), tail_});",
        "at_.waiting.push_back({std::move(item), at_.decided});",
        seen_by="twin",
    ),
    SteadyMutant(
        "a slot is accepted twice",
        "if (slot != tail_ + 1 || !in_horizon(slot)",
        "if (slot > tail_ + 1 || !in_horizon(slot)",
        seen_by="twin",
    ),
    SteadyMutant(
        "what was forwarded twice is proposed twice",
        "if (!leads() || !is_new(item)) return false;",
        "if (!leads()) return false;",
        seen_by="twin",
    ),
    SteadyMutant(
        "votes for later slots are dropped",
        "if (in_horizon(slot)) vote(slot, sender);",
        "if (in_horizon(slot) && slot <= tail_) vote(slot, sender);",
        seen_by="twin",
    ),
    SteadyMutant(
        "the clock goes back",
        "at_.proposed_time = std::max(wall, at_.proposed_time);",
        "at_.proposed_time = wall;",
        seen_by="twin",
    ),
    SteadyMutant(
        "own batches are kept when they are decided",
        "if (own != at_.outbox.end()) at_.outbox.erase(own);",
        "(void)own;",
        seen_by="twin",
    ),
]


def noticed(mutant: SteadyMutant, directory: Path) -> str | None:
    """Build it and run seeds until one fails; how, or None."""
    native = compile_mutant(mutant.mutant, directory)
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.steady_run", str(native), mutant.seen_by, str(SEEDS)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    # Anything but these two is a mistake of this test.
    if done.returncode not in (0, 1) or (done.returncode == 1 and "seed" not in done.stdout):
        raise RuntimeError(done.stderr)
    return done.stdout.strip() or None
