"""The simulated world: many seeds, exact replay, and proof that its checks can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from mpaxos.core import election, learner
from mpaxos.core.acceptor import Acceptor
from mpaxos.core.leader import Leadership
from mpaxos.core.learner import Learner
from mpaxos.core.replica import Replica
from mpaxos.core.sessions import Session
from mpaxos.core.turn import Turn
from mpaxos.core.types import ZERO_BALLOT, Record
from mpaxos.sim import Report, run
from mpaxos.sim.node import Node
from mpaxos.sim.store import SimStore

SEEDS = int(os.environ.get("MPAXOS_SIM_SEEDS", "1200"))
FIRST = 500_000
CHUNK = 20


def run_chunk(first: int) -> list[Report]:
    return [run(seed, 5 if seed % 3 == 0 else 3) for seed in range(first, first + CHUNK)]


def test_many_seeds() -> None:
    """No seed violates safety, every healed cluster comes back, and the faults did happen."""
    starts = range(FIRST, FIRST + SEEDS, CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        reports = [report for chunk in pool.map(run_chunk, starts) for report in chunk]
    failed = [
        f"mpaxos sim --seed {r.seed} --replicas {r.replicas} --count 1 --trace: {r.failure}"
        for r in reports
        if r.failure is not None
    ]
    assert not failed, "\n".join(failed)
    assert len(reports) == SEEDS
    struck: dict[str, int] = {}
    for report in reports:
        for fault, times in report.faults.items():
            struck[fault] = struck.get(fault, 0) + times
    assert len(struck) == 10 and min(struck.values()) > SEEDS // 20, struck
    assert sum(r.acknowledged for r in reports) > 20 * SEEDS


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_seed_replays_exactly_under_another_hash_seed(seed: int) -> None:
    code = f"from mpaxos.sim import run; r = run({seed}, 5); print(r.events, r.trace_digest)"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    here = run(seed, 5)
    assert printed == {f"{here.events} {here.trace_digest}\n"}


# ------------------------------------------------------------------ the checkers are checked


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(owner, name, make(getattr(owner, name)))

    return apply


def ignore_promise(accept: Any) -> Any:
    def broken(self: Acceptor, turn: Turn, ballot: Any, slot: int, value: Any) -> bool:
        kept, self.promised = self.promised, ZERO_BALLOT
        accepted = accept(self, turn, max(ballot, kept), slot, value)
        self.promised = max(kept, self.promised)
        return bool(accepted)

    return broken


def count_any_ballot(vote: Any) -> Any:
    def broken(self: Learner, slot: int, ballot: Any, voter: int) -> None:
        held = self._votes.get(slot)
        vote(self, slot, ballot if held is None else max(held[0], ballot), voter)
        if held is not None:
            top, mask = self._votes.get(slot, (ballot, 0))
            self._votes[slot] = (top, mask | held[1])

    return broken


def without_majority(next_decided: Any) -> Any:
    def broken(self: Learner) -> Record | None:
        slot = self.decided_upto + 1
        return self._acceptor.record(slot) if slot in self._votes else next_decided(self)

    return broken


def trust_any_ballot(next_decided: Any) -> Any:
    def broken(self: Learner) -> Record | None:
        found: Record | None = next_decided(self)
        slot = self.decided_upto + 1
        if found is None and slot <= self._leader_says[1]:
            return self._acceptor.record(slot)
        return found

    return broken


def forget_sessions(start: Any) -> Any:
    def broken(self: Node) -> None:
        self.engine._sessions.sessions.clear()
        start(self)

    return broken


def forget_promise(recovered: Any) -> Any:
    def broken(self: SimStore) -> Any:
        self.promised = ZERO_BALLOT
        return recovered(self)

    return broken


def truncate_everything(truncate: Any) -> Any:
    def broken(self: Replica, turn: Turn) -> None:
        if self.decided_upto > self._acceptor.truncated_upto:
            self._acceptor.truncate(turn, self.decided_upto)

    return broken


# Two more mistakes are caught by stories made for them in tests/unit/test_core.py: reads without a
# quorum, and proposing the lower ballot again.
MUTANTS = {
    "the promise is not persisted": wrap(Turn, "write_promise", lambda f: lambda self, b: None),
    "the accept is not persisted": wrap(Turn, "write_record", lambda f: lambda self, r, n: None),
    "the promise is forgotten in a crash": wrap(SimStore, "recovered", forget_promise),
    "the promise does not bind": wrap(Acceptor, "accept", ignore_promise),
    "majority off by one when deciding": wrap(learner, "majority", lambda f: lambda n: n // 2),
    "majority off by one when preparing": wrap(election, "majority", lambda f: lambda n: n // 2),
    "votes of an older ballot count": wrap(Learner, "vote", count_any_ballot),
    "decided without a majority": wrap(Learner, "_next_decided", without_majority),
    "the leader is trusted across ballots": wrap(Learner, "_next_decided", trust_any_ballot),
    "sessions are lost in a crash": wrap(Node, "start", forget_sessions),
    "duplicates are run again": wrap(Session, "stored", lambda f: lambda self, q: None),
    "a read index of decided slots only": wrap(
        Leadership, "last_proposed", lambda f: property(lambda self: self._learner.decided_upto)
    ),
    "the log is truncated before it is applied": wrap(Replica, "_truncate", truncate_everything),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_protocol_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    for seed in range(900_000, 900_400):
        if run(seed, 5 if seed % 2 else 3).failure is not None:
            return
    pytest.fail(f"400 seeds did not notice that {name}")
