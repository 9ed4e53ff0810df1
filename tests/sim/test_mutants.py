"""The checkers are checked: each of many mistakes in the protocol must be noticed."""

from __future__ import annotations

import pytest

from mpaxos.core.learner import Learner
from mpaxos.sim import run
from tests.sim.mutants import MUTANTS, SEEN_ELSEWHERE, count_any_ballot

FIRST = 900_000
BUDGET = 400
"""Seeds: some 8 seconds."""

HINTS = {
    "a vote that comes twice counts twice": 107,
    "a candidate forgets its own records": 115,
    "holes are closed instead of filled": 159,
    "a read without a quorum": 159,
    "requests below the lowest are run": 107,
}
"""Offsets of seeds that noticed it before: tried first, to save time."""


def failure(offset: int) -> str | None:
    return run(FIRST + offset, 5 if offset % 2 else 3).failure


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in SEEN_ELSEWHERE])
def test_a_broken_protocol_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    offsets = [HINTS[name], *range(BUDGET)] if name in HINTS else range(BUDGET)
    assert any(failure(offset) is not None for offset in offsets), (
        f"{BUDGET} seeds did not notice that {name}"
    )


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) - len(SEEN_ELSEWHERE) >= 25
    assert set(SEEN_ELSEWHERE) <= set(MUTANTS)


def test_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that must fail with a known mistake, and must not without it."""
    assert failure(9) is None
    monkeypatch.setattr(Learner, "vote", count_any_ballot(Learner.vote))
    found = failure(9)
    assert found is not None and "while a majority holds" in found
