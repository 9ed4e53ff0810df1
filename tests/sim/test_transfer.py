"""State transfer in the simulated world: short logs, replicas that are long away."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mpaxos.core import transfer
from mpaxos.core.messages import StateChunk
from mpaxos.core.output import WritePromise, WriteRecord
from mpaxos.core.settings import MILLISECOND
from mpaxos.core.transfer import StateTarget
from mpaxos.sim import transfer as sim_transfer
from mpaxos.sim import world as sim_world
from mpaxos.sim.transfer import Install
from mpaxos.sim.world import Plan, Report, World

SEEDS = 60


def short_logs(draw: Callable[..., Plan]) -> Callable[..., Plan]:
    """Plans in which a replica that is away is soon beyond the reach of all logs."""

    def drawn(rng: random.Random, *others: Any) -> Plan:
        plan = draw(rng, *others)
        # A log must have room for two windows of records, here some 300 bytes each.
        window = rng.choice([2, 4, 8])
        return msgspec.structs.replace(
            plan,
            window=window,
            log_size=window * 1024,
            rot=False,
            clients=5,
            client_window=1,
            pace=rng.choice([250, 500]),
            faults_for=rng.randrange(1500, 4000) * MILLISECOND,
        )

    return drawn


def run(seed: int, patch: pytest.MonkeyPatch) -> Report:
    with patch.context() as inner:
        inner.setattr(sim_world, "draw_plan", short_logs(sim_world.draw_plan))
        return World(seed, 5 if seed % 2 else 3).run()


def test_states_are_transferred(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = 0
    for seed in range(SEEDS):
        report = run(seed, monkeypatch)
        assert report.failure is None, f"seed {seed}: {report.failure}"
        switches += report.faults.get("switch", 0)
    assert switches >= SEEDS // 2, f"only {switches} transfers: nothing was tested"


# ------------------------------------------------------------------ mistakes, to be noticed


def without(kind: type) -> Callable[..., Any]:
    """carried_over() forgets the writes of one kind."""
    true = transfer.carried_over

    def broken(recovered: Any, log: Any, slot: int) -> list[Any]:
        return [write for write in true(recovered, log, slot) if not isinstance(write, kind)]

    return broken


def from_anybody(self: StateTarget, turn: Any, sender: int, message: StateChunk) -> None:
    """Chunks of any image and any source are taken."""
    self._image = self._image or message.image
    if self._active and self._complete is None:
        replaced = msgspec.structs.replace(message, image=self._image)
        TRUE_ON_CHUNK(self, turn, self.source if self.source is not None else sender, replaced)


TRUE_ON_CHUNK = StateTarget.on_chunk


def unverified(self: Install) -> int:
    return self.engine().mark[0]


Patch = Callable[[pytest.MonkeyPatch], None]

MUTANTS: dict[str, Patch] = {
    "votes are not carried over": lambda patch: patch.setattr(
        sim_transfer, "carried_over", without(WriteRecord)
    ),
    "the promise is not carried over": lambda patch: patch.setattr(
        sim_transfer, "carried_over", without(WritePromise)
    ),
    "a state is switched to without verification": lambda patch: patch.setattr(
        Install, "verified", unverified
    ),
    "images of two sources are mixed": lambda patch: (
        patch.setattr(StateTarget, "on_chunk", from_anybody),
        patch.setattr(Install, "verified", unverified),
    )[0],
}


HINTS = {"votes are not carried over": 684}
"""Seeds that noticed it before: tried first, to save time."""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    seeds = [HINTS[name], *range(10 * SEEDS)] if name in HINTS else range(10 * SEEDS)
    assert any(run(seed, monkeypatch).failure is not None for seed in seeds), (
        f"{10 * SEEDS} seeds did not notice that {name}"
    )


def test_mixed_images_do_not_pass_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the protocol lets through by mistake, the sums over the whole state still refuse."""
    refused: list[str] = []
    verified = Install.verified

    def watched(self: Install) -> int:
        try:
            return verified(self)
        except sim_transfer.Refused as error:
            refused.append(str(error))
            raise

    monkeypatch.setattr(StateTarget, "on_chunk", from_anybody)
    monkeypatch.setattr(Install, "verified", watched)
    for seed in range(SEEDS):
        run(seed, monkeypatch)
    assert refused
