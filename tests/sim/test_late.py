"""Writes that become durable while the loop goes on, and a state that is durable in snapshots."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mpaxos.core.output import Output
from mpaxos.core.truncation import Truncation
from mpaxos.runtime.held import Held
from tests.sim.late import LateStore, LateWorld, run
from tests.sim.mutants import EARLY_MUTANTS

SEEDS = int(os.environ.get("MPAXOS_SIM_SEEDS", "5000")) // 25
FIRST = 700_000

MUTANT_SEEDS = 200
"""Each of the mutants is caught by one seed in ten, or by more."""


def test_many_seeds() -> None:
    """Nothing is said before it is durable, nothing acknowledged is lost, no log begins after its
    snapshot; and it did happen: writes were late, states were set back."""
    late = set_back = acknowledged = 0
    for seed in range(FIRST, FIRST + SEEDS):
        replicas = 5 if seed % 3 == 0 else 3
        report, world = run(seed, replicas)
        assert report.failure is None, (
            f"python -c 'from tests.sim.late import LateWorld; "
            f"LateWorld({seed}, {replicas}, trace=print).run()': {report.failure}"
        )
        late += world.late_writes
        set_back += world.set_back
        acknowledged += report.acknowledged
    assert late > 50 * SEEDS and set_back > SEEDS // 2 and acknowledged > 8 * SEEDS
    print(f"{SEEDS} schedules, {late} late writes, {set_back} states set back to a snapshot")


class SaysAtOnce(Held):
    """Does not wait for the device."""

    def release(self) -> Iterator[Output]:
        while self._outputs:
            yield self._outputs.popleft()[1]


class HoldsOnlyWhatWrites(Held):
    """A turn that wrote nothing overtakes those before it."""

    def release(self) -> Iterator[Output]:
        free = [item for item in self._outputs if not item[1].writes]
        for item in free:
            self._outputs.remove(item)
            yield item[1]
        yield from super().release()


@pytest.mark.parametrize("mutant", [SaysAtOnce, HoldsOnlyWhatWrites])
def test_a_loop_that_says_too_early_is_noticed(mutant: type[Held]) -> None:
    class Broken(LateWorld):
        def make_held(self, store: LateStore) -> Held:
            return mutant(store, quick=0)

    failures = (Broken(seed, 3).run().failure for seed in range(MUTANT_SEEDS))
    found = next(failure for failure in failures if failure is not None)
    expected = ("before its", "handed out after", "lost", "while a majority holds")
    assert any(text in found for text in expected), found


@pytest.mark.parametrize("name", EARLY_MUTANTS)
def test_a_mistake_with_early_accepts_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    EARLY_MUTANTS[name](monkeypatch)
    failures = (run(seed, 3)[0].failure for seed in range(MUTANT_SEEDS))
    found = next((failure for failure in failures if failure is not None), None)
    assert found is not None, f"{MUTANT_SEEDS} seeds did not notice that {name}"


def test_a_log_that_is_truncated_too_far_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Truncation.__init__

    def forgetful(self: Truncation, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        self.snapshot = None

    monkeypatch.setattr(Truncation, "__init__", forgetful)
    # A newer snapshot is told of, and the bound would be back.
    monkeypatch.setattr(Truncation, "__setattr__", _ignoring_snapshots)
    failures = (run(seed)[0].failure for seed in range(MUTANT_SEEDS))
    found = next(failure for failure in failures if failure is not None)
    assert "beyond the snapshot" in found, found


def _ignoring_snapshots(self: Truncation, name: str, value: object) -> None:
    object.__setattr__(self, name, None if name == "snapshot" else value)
