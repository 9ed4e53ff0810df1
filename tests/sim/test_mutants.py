"""The checkers are checked: each of many mistakes in the protocol must be noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mpaxos.core.learner import Learner
from mpaxos.sim import World
from tests.sim.mutants import (
    MUTANTS,
    RECOVERY_MUTANTS,
    RECOVERY_SEEN_ELSEWHERE,
    SEEN_ELSEWHERE,
    count_any_ballot,
)
from tests.unit import pools, test_core, test_recovery, test_sessions

FIRST = 900_000
BUDGET = 400
"""Seeds: some 8 seconds."""

HINTS = {
    "a vote that comes twice counts twice": 107,
    "a candidate forgets its own records": 115,
    "holes are closed instead of filled": 1169,
    "a read without a quorum": 159,
    "requests below the lowest are run": 107,
    "a forgotten promise counts": 339,
    "promises tell no lives": 339,
    "an answer leaves before the life is noted": 339,
}
"""Offsets of seeds that noticed it before: tried first, to save time."""


def agreement_of_engines() -> None:
    with pools.scratch() as directory:
        test_sessions.test_native_and_python_agree_on_every_reply_and_digest(directory, 20)


UNIT: dict[str, Callable[[], None]] = {
    "the truncation of a promiser is ignored": (
        test_core.test_a_candidate_behind_a_truncated_log_gives_up_and_catches_up
    ),
    "deposed leaders are followed": test_core.test_nobody_confirms_a_read_of_a_deposed_leader,
    "a read confirmed by an old heartbeat": test_core.test_no_read_without_a_majority,
    "an expired session is opened again": agreement_of_engines,
}
"""Mutants that a unit test notices."""

RECOVERY_UNIT: dict[str, list[Callable[[], None]]] = {
    "any leader's answer will do": [
        test_recovery.test_the_leader_of_the_highest_ballot_must_answer_as_leader
    ],
    "answers of an earlier life count": [
        test_recovery.test_answers_to_an_earlier_life_do_not_count
    ],
    "a forgotten promise counts": [
        lambda: test_recovery.test_a_promise_of_a_forgotten_life_does_not_count(True)
    ],
    "an answer leaves before the life is noted": [
        test_recovery.test_a_new_life_is_durable_before_it_is_answered,
        lambda: test_recovery.test_a_promise_of_a_forgotten_life_does_not_count(True),
    ],
    "lost records look as if they had never been": [
        lambda: test_recovery.test_lost_records_are_not_told_as_if_there_had_been_none("view")
    ],
    "it takes part before it has caught up": [
        test_recovery.test_it_catches_up_with_all_that_the_leader_had_proposed
    ],
}
"""Mutants of recovery and the unit tests each of which notices it."""


def failure(offset: int, durability: str = "pmem") -> str | None:
    # Without mandates: what is broken here is not what takes ordinary turns then.
    replicas = 5 if offset % 2 else 3
    return World(FIRST + offset, replicas, durability=durability, steady=False).run().failure


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in SEEN_ELSEWHERE])
def test_a_broken_protocol_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    offsets = [HINTS[name], *range(BUDGET)] if name in HINTS else range(BUDGET)
    assert any(failure(offset) is not None for offset in offsets), (
        f"{BUDGET} seeds did not notice that {name}"
    )


@pytest.mark.parametrize(
    "name", [name for name in RECOVERY_MUTANTS if name not in RECOVERY_SEEN_ELSEWHERE]
)
def test_a_broken_recovery_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant, durability = RECOVERY_MUTANTS[name]
    mutant(monkeypatch)
    offsets = [HINTS[name], *range(BUDGET)] if name in HINTS else range(BUDGET)
    assert any(failure(offset, durability) is not None for offset in offsets), (
        f"{BUDGET} seeds did not notice that {name}"
    )


@pytest.mark.parametrize("name", RECOVERY_UNIT)
def test_a_broken_recovery_fails_the_unit_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RECOVERY_MUTANTS[name][0](monkeypatch)
    for story in RECOVERY_UNIT[name]:
        with pytest.raises(AssertionError):
            story()


@pytest.mark.parametrize("name", UNIT)
def test_a_broken_protocol_fails_the_unit_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError):
        UNIT[name]()


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) - len(SEEN_ELSEWHERE) >= 25
    assert set(SEEN_ELSEWHERE) <= set(MUTANTS)
    assert set(UNIT) == {name for name, rung in SEEN_ELSEWHERE.items() if rung == "unit"}
    assert len(RECOVERY_MUTANTS) - len(RECOVERY_SEEN_ELSEWHERE) >= 8
    assert set(RECOVERY_MUTANTS) >= RECOVERY_SEEN_ELSEWHERE <= set(RECOVERY_UNIT)


def test_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that must fail with a known mistake, and must not without it."""
    assert failure(19) is None
    monkeypatch.setattr(Learner, "vote", count_any_ballot(Learner.vote))
    found = failure(19)
    assert found is not None and "while a majority holds" in found
