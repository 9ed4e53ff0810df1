"""Exhaustive search of small worlds: what it must find clean, and the mistakes it must find."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from mpaxos.sim.exhaustive import SCOPES, Outcome, search
from mpaxos.sim.exhaustive.search import Search
from tests.sim.mutants import EARLY_MUTANTS, MUTANTS, RECOVERY_MUTANTS

FINISHED = "quick"
CUT = {
    "crash": 12_000,
    "told": 8_000,
    "early": 8_000,
    "slots": 8_000,
    "four": 8_000,
    "main": 8_000,
    "view": 8_000,
    "epoch": 8_000,
    "five": 8_000,
}
"""States looked at in the larger scopes; `make exhaustive` looks at more of them."""


def searched(name: str, limit: int) -> Outcome:
    return search(SCOPES[name], limit)


def test_small_worlds_keep_every_promise() -> None:
    """One scope to its end, the others in part."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        whole = pool.submit(searched, FINISHED, 1 << 62)
        parts = [pool.submit(searched, name, limit) for name, limit in CUT.items()]
        outcomes = [whole.result(), *(part.result() for part in parts)]
    for outcome in outcomes:
        print(f"{SCOPES[outcome.scope].text}: {outcome.states:,} states, {outcome.seconds:.1f} s")
        assert outcome.violation is None, (
            f"mpaxos exhaustive --scope {outcome.scope}:\n{outcome.violation}"
        )
    assert outcomes[0].finished and outcomes[0].states > 100_000
    assert all(outcome.messages > 20 and outcome.turns > 100 for outcome in outcomes)


@pytest.mark.parametrize("name", SCOPES)
def test_random_walks_end_well(name: str) -> None:
    outcome = Search(SCOPES[name]).wander(30)
    assert outcome.violation is None, outcome.violation
    assert outcome.states > 100 and outcome.deepest > 15


MISTAKES = {
    "the promise is not persisted": "quick",
    "the accept is not persisted": "quick",
    "the promise is forgotten in a crash": "crash",
    "accepted records are forgotten in a crash": "crash",
    "the promise does not bind": "quick",
    "a promise beside a record is not written": "quick",
    "the log is truncated before it is applied": "crash",
    "majority off by one when deciding": "quick",
    "majority off by one when preparing": "quick",
    "votes of an older ballot count": "five",
    "a vote that comes twice counts twice": "five",
    "decided without a majority": "quick",
    "a record of another ballot is decided": "five",
    "the values of promises are ignored": "quick",
    "the lowest ballot's value is proposed again": "four",
    "a candidate forgets its own records": "crash",
    "holes are closed instead of filled": "slots",
    "values proposed again get a new time": "slots",
    "two replicas have the same ballot": "quick",
}


RECOVERY_MISTAKES = {
    "a replica that forgot takes part at once": "view",
    "a recovering replica promises": "epoch",
    "it takes part before it has caught up": "epoch",
}
"""These make two values chosen: nothing but Paxos's own definition is looked at here."""


@pytest.mark.parametrize("name", RECOVERY_MISTAKES)
def test_a_mistake_in_recovery_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RECOVERY_MUTANTS[name][0](monkeypatch)
    outcome = Search(SCOPES[RECOVERY_MISTAKES[name]]).wander(3000)
    assert outcome.violation is not None, f"3,000 walks did not find that {name}"
    assert "chosen twice" in outcome.violation or "while a majority holds" in outcome.violation


EARLY_MISTAKES = ["an early accept counts as a vote", "the leader's vote leaves early"]
"""The third needs writes that are late by a turn, as in tests/sim/test_late.py."""


@pytest.mark.parametrize("name", EARLY_MISTAKES)
def test_a_mistake_with_early_accepts_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    EARLY_MUTANTS[name](monkeypatch)
    outcome = Search(SCOPES["early"]).wander(3000)
    assert outcome.violation is not None, f"3,000 walks did not find that {name}"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    outcome = Search(SCOPES[MISTAKES[name]]).wander(3000)
    assert outcome.violation is not None, f"3,000 walks did not find that {name}"
    assert "  1. " in outcome.violation and "=> " in outcome.violation


def test_a_search_finds_what_a_walk_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The depth-first search itself fails where it has to."""
    MUTANTS["majority off by one when preparing"](monkeypatch)
    outcome = search(SCOPES["quick"], 100_000)
    assert outcome.violation is not None and "seeks votes" in outcome.violation


def test_the_same_seed_searches_the_same() -> None:
    first, second = (search(SCOPES["crash"], 3_000, seed=7) for _ in range(2))
    first.seconds = second.seconds = 0
    assert first == second
