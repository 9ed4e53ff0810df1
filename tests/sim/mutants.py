"""Mistakes that are easily made in a protocol like this, each put into the real code.

A checker that never fails proves nothing: test_mutants.py runs the simulation over each of these
and expects it to notice. Each is a function of a pytest.MonkeyPatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from mpaxos._native import Overlay
from mpaxos.core import election, learner
from mpaxos.core.acceptor import Acceptor
from mpaxos.core.catchup import Catchup
from mpaxos.core.election import Election, Phase
from mpaxos.core.leader import Leadership
from mpaxos.core.learner import Learner
from mpaxos.core.lives import Lives
from mpaxos.core.messages import (
    Accept,
    Heartbeat,
    Prepare,
    PreVote,
    Promise,
    Recover,
    RecoverReply,
    TakeOver,
)
from mpaxos.core.output import WritePromise
from mpaxos.core.reads import ReadConfirmation
from mpaxos.core.recovery import Recovery
from mpaxos.core.replica import Replica
from mpaxos.core.sessions import Planned, Session, SessionTable
from mpaxos.core.truncation import Truncation
from mpaxos.core.turn import Turn
from mpaxos.core.types import ZERO_BALLOT, Ballot, Record, Value
from mpaxos.runtime.applier import _ReadGate
from mpaxos.runtime.loop import Loop
from mpaxos.sim.node import Node
from mpaxos.sim.store import SimStore

Mutant = Callable[[pytest.MonkeyPatch], None]


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> Mutant:
    """The mutant that has `make(original)` in the place of `owner.name`."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        broken = make(getattr(owner, name))
        if callable(broken):
            broken.__name__ = name  # by which the exhaustive search's copies find it again
        patch.setattr(owner, name, broken)

    return apply


# ------------------------------------------------------------------ acceptor and storage


def ignore_promise(accept: Any) -> Any:
    def broken(self: Acceptor, turn: Turn, ballot: Any, slot: int, value: Any) -> bool:
        kept, self.promised = self.promised, ZERO_BALLOT
        accepted = accept(self, turn, max(ballot, kept), slot, value)
        self.promised = max(kept, self.promised)
        return bool(accepted)

    return broken


def forget_promise(recovered: Any) -> Any:
    def broken(self: SimStore) -> Any:
        self.promised = ZERO_BALLOT
        return recovered(self)

    return broken


def forget_accepted(init: Any) -> Any:
    def broken(self: Acceptor, settings: Any, recovered: Any, log: Any) -> None:
        init(self, settings, recovered, log)
        self.last_slot = recovered.applied.slot

    return broken


class LateStore:
    """Writes what it was given last when it is given more: a crash in between loses it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._late: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, writes: Any) -> None:
        self._late.append(writes)
        if len(self._late) > 1:
            self._store.write(self._late.pop(0))


def send_before_write(init: Any) -> Any:
    def broken(self: Loop, plane: Any, replica: Any, store: Any, *rest: Any, **named: Any) -> None:
        init(self, plane, replica, LateStore(store), *rest, **named)

    return broken


def only_last_promise(write: Any) -> Any:
    def broken(self: SimStore, writes: Any) -> None:
        write(self, [w for w in writes if not isinstance(w, WritePromise)] or writes)

    return broken


def truncate_everything(truncate: Any) -> Any:
    def broken(self: Truncation, turn: Turn, applied: int) -> None:
        if self._acceptor.settled_upto > self._acceptor.truncated_upto:
            self._acceptor.truncate(turn, self._acceptor.settled_upto)

    return broken


# ------------------------------------------------------------------ learner


def count_any_ballot(vote: Any) -> Any:
    def broken(self: Learner, slot: int, ballot: Any, voter: int) -> None:
        held = self._votes.get(slot)
        vote(self, slot, ballot if held is None else max(held[0], ballot), voter)
        if held is not None:
            top, mask = self._votes.get(slot, (ballot, 0))
            self._votes[slot] = (top, mask | held[1])

    return broken


def count_twice(vote: Any) -> Any:
    def broken(self: Learner, slot: int, ballot: Any, voter: int) -> None:
        again = self.voted(slot, ballot, voter)
        vote(self, slot, ballot, voter)
        if again and slot in self._votes:
            top, mask = self._votes[slot]
            self._votes[slot] = (top, mask | 1 << (10 + voter))

    return broken


def without_majority(next_decided: Any) -> Any:
    def broken(self: Learner) -> Record | None:
        slot = self.decided_upto + 1
        found: Record | None = next_decided(self)
        return self._acceptor.record(slot) if slot in self._votes else found

    return broken


def trust_any_ballot(next_decided: Any) -> Any:
    def broken(self: Learner) -> Record | None:
        found: Record | None = next_decided(self)
        slot = self.decided_upto + 1
        if found is None and slot <= self._leader_says[1]:
            return self._acceptor.record(slot)
        return found

    return broken


def any_record_will_do(next_decided: Any) -> Any:
    def broken(self: Learner) -> Record | None:
        slot = self.decided_upto + 1
        _, mask = self._votes.get(slot, (ZERO_BALLOT, 0))
        found: Record | None = next_decided(self)
        return self._acceptor.record(slot) if mask.bit_count() >= self._majority else found

    return broken


# ------------------------------------------------------------------ election and leadership


def alter_promise(change: Callable[[Promise], Promise]) -> Callable[[Any], Any]:
    def make(on_promise: Any) -> Any:
        def broken(self: Election, turn: Turn, sender: int, message: Promise) -> None:
            on_promise(self, turn, sender, change(message))

        return broken

    return make


def without_values(message: Promise) -> Promise:
    return Promise(
        message.ballot, message.start, message.decided_upto, message.truncated_upto, [], []
    )


def without_truncation(message: Promise) -> Promise:
    return Promise(
        message.ballot, message.start, message.decided_upto, 0, message.accepted, message.values
    )


def lowest_ballot_wins(on_promise: Any) -> Any:
    def broken(self: Election, turn: Turn, sender: int, message: Promise) -> None:
        before = dict(self._best)
        on_promise(self, turn, sender, message)
        for slot, record in before.items():
            if slot in self._best and record.ballot < self._best[slot].ballot:
                self._best[slot] = record

    return broken


def forget_own_records(prepare: Any) -> Any:
    def broken(self: Election, turn: Turn) -> None:
        prepare(self, turn)
        self._best.clear()

    return broken


def no_ops_in_holes_only_at_the_end(backlog: Any) -> Any:
    def broken(self: Election, noop: Any, time: int) -> Any:
        values = backlog(self, noop, time)
        found = [value for value in values.values() if value.batch.count]
        first = self._learner.decided_upto + 1
        return dict(enumerate(found, first))

    return broken


def new_time(backlog: Any) -> Any:
    def broken(self: Election, noop: Any, time: int) -> Any:
        return {s: Value(v.batch, time + s) for s, v in backlog(self, noop, time).items()}

    return broken


def shared_ballots(next_ballot: Any) -> Any:
    def broken(self: Election) -> Ballot:
        return Ballot(next_ballot(self).round, 0)

    return broken


def follow_anybody(follow: Any) -> Any:
    def broken(self: Replica, turn: Turn, ballot: Ballot) -> bool:
        return True if ballot < self._acceptor.promised else bool(follow(self, turn, ballot))

    return broken


# ------------------------------------------------------------------ catch-up and reads


def serve_undecided(serve: Any) -> Any:
    def broken(self: Catchup, turn: Turn, asker: int, request: Any) -> None:
        true = self._learner.decided_upto
        self._learner.decided_upto = max(true, self._acceptor.last_slot)
        serve(self, turn, asker, request)
        self._learner.decided_upto = true

    return broken


def learn_below_promise(learn: Any) -> Any:
    def broken(self: Acceptor, turn: Turn, slot: int, ballot: Ballot, value: Value) -> bool:
        if self.has_room(value):
            self._append(turn, Record(slot, ballot, value))
            return True
        return False

    return broken


def confirm_at_once(confirmed: Any) -> Any:
    def broken(self: ReadConfirmation) -> Any:
        done, self._confirming = self._confirming + self._waiting, []
        self._waiting = []
        return done

    return broken


def old_acknowledgements_count(confirmed: Any) -> Any:
    def broken(self: ReadConfirmation) -> Any:
        self._round = 0
        return confirmed(self)

    return broken


def answer_now(pass_through: Any) -> Any:
    def broken(self: _ReadGate, decided: Any, reads: Any) -> Any:
        return pass_through(self, decided, []) + [read.batch for read in reads]

    return broken


# ------------------------------------------------------------------ sessions and the machine


def forget_sessions(start: Any) -> Any:
    def broken(self: Node) -> None:
        self.engine._sessions.sessions.clear()
        start(self)

    return broken


def run_below_lowest(command: Any) -> Any:
    def broken(self: SessionTable, planned: Planned, used: int, index: int, entry: Any) -> None:
        session = self.sessions.get(entry[0])
        if session is not None and entry[1] < session.lowest:
            session.lowest = entry[1]
        command(self, planned, used, index, entry)

    return broken


def reopen_expired(command: Any) -> Any:
    def broken(self: SessionTable, planned: Planned, used: int, index: int, entry: Any) -> None:
        if entry[0] not in self.sessions:
            self.sessions[entry[0]] = Session(entry[0], 8, 0, used, {})
        command(self, planned, used, index, entry)

    return broken


# ------------------------------------------------------------------ early accepts


def early_accepts_are_votes(on_accept: Any) -> Any:
    def broken(self: Replica, turn: Turn, sender: int, message: Accept) -> None:
        on_accept(self, turn, sender, replace(message, vote=True))

    return broken


def early_accepts_tell_what_is_decided(propose: Any) -> Any:
    def broken(self: Leadership, turn: Turn, wall: int, applied_upto: int) -> None:
        propose(self, turn, wall, applied_upto)
        for envelope in turn.output.early:
            envelope.message.decided_upto = self._learner.decided_upto  # type: ignore[union-attr]

    return broken


def everything_is_early(step: Any) -> Any:
    def broken(self: Replica, now: int, events: Any) -> Any:
        output = step(self, now, events)
        output.early += output.messages
        output.messages = []
        return output

    return broken


def halves(n: int) -> int:
    return n // 2


# ------------------------------------------------------------------ recovery


def without_handlers(*kinds: type) -> Callable[[Any], Any]:
    """These messages are treated as if nothing were forgotten."""

    def make(handlers: Any) -> Any:
        def broken(self: Recovery) -> Any:
            return {kind: f for kind, f in handlers(self).items() if kind not in kinds}

        return broken

    return make


def count_own_answer(init: Any) -> Any:
    def broken(self: Recovery, *arguments: Any) -> None:
        init(self, *arguments)
        self._needed -= 1

    return broken


def alter_answer(change: Callable[[RecoverReply], RecoverReply]) -> Callable[[Any], Any]:
    def make(on_reply: Any) -> Any:
        def broken(self: Recovery, turn: Turn, sender: int, message: RecoverReply) -> None:
            on_reply(self, turn, sender, change(message))

        return broken

    return make


def log_end_is_what_is_decided(message: RecoverReply) -> RecoverReply:
    return replace(message, log_end=message.decided_upto)


def any_life(on_reply: Any) -> Any:
    def broken(self: Recovery, turn: Turn, sender: int, message: RecoverReply) -> None:
        on_reply(self, turn, sender, replace(message, life=self._lives.own))

    return broken


def without_leader(aim: Any) -> Any:
    def broken(self: Recovery, turn: Turn) -> None:
        aim(self, turn)
        if self._log_end is None and len(self._answers) >= self._needed:
            self._ballot = self._highest()
            self._log_end = max(answer.decided_upto for answer in self._answers.values())
            self._acceptor.promise(turn, self._ballot)

    return broken


def any_leader(aim: Any) -> Any:
    def broken(self: Recovery, turn: Turn) -> None:
        aim(self, turn)
        led = [answer for answer in self._answers.values() if answer.leads]
        if self._log_end is None and led and len(self._answers) >= self._needed:
            self._ballot, self._log_end = led[0].promised, led[0].log_end

    return broken


def log_end_of_a_follower(aim: Any) -> Any:
    def broken(self: Recovery, turn: Turn) -> None:
        before = self._log_end
        aim(self, turn)
        if self._log_end is not None and before is None:
            self._log_end = min(answer.decided_upto for answer in self._answers.values())

    return broken


def do_not_catch_up(tick: Any) -> Any:
    def broken(self: Recovery, turn: Turn) -> bool:
        if self._log_end is not None:
            self._log_end = 0
        return bool(tick(self, turn))

    return broken


def do_not_promise_again(aim: Any) -> Any:
    def broken(self: Recovery, turn: Turn) -> None:
        promise, self._acceptor.promise = self._acceptor.promise, lambda t, b: False  # type: ignore
        aim(self, turn)
        self._acceptor.promise = promise  # type: ignore[method-assign]

    return broken


def count_forgotten_promises(won: Any) -> Any:
    def broken(self: Election) -> bool:
        return self.phase is Phase.PREPARE and len(self._promised) >= self._majority

    return broken


def promises_tell_no_lives(vector: Any) -> Any:
    def broken(self: Lives) -> list[int]:
        return [self._known[r] if r == self._me else 1 for r in range(len(self._known))]

    return broken


def lives_are_forgotten(begin_life: Any) -> Any:
    def broken(self: SimStore) -> None:
        self.lives = ()
        begin_life(self)

    return broken


def replaced_and_trusted(begin_life: Any) -> Any:
    def broken(self: SimStore) -> None:
        self.recovering = False
        begin_life(self)

    return broken


def lost_records_never_were(init: Any) -> Any:
    def broken(self: Acceptor, settings: Any, recovered: Any, log: Any) -> None:
        init(self, settings, recovered, log)
        self.truncated_upto = recovered.truncated_upto

    return broken


MUTANTS: dict[str, Mutant] = {
    "the promise is not persisted": wrap(Turn, "write_promise", lambda f: lambda self, b: None),
    "the accept is not persisted": wrap(Turn, "write_record", lambda f: lambda self, r, n: None),
    "the promise is forgotten in a crash": wrap(SimStore, "recovered", forget_promise),
    "accepted records are forgotten in a crash": wrap(Acceptor, "__init__", forget_accepted),
    "the promise does not bind": wrap(Acceptor, "accept", ignore_promise),
    "messages leave before the writes": wrap(Loop, "__init__", send_before_write),
    "a promise beside a record is not written": wrap(SimStore, "write", only_last_promise),
    "the log is truncated before it is applied": wrap(Truncation, "run", truncate_everything),
    "majority off by one when deciding": wrap(learner, "majority", lambda f: halves),
    "majority off by one when preparing": wrap(election, "majority", lambda f: halves),
    "votes of an older ballot count": wrap(Learner, "vote", count_any_ballot),
    "a vote that comes twice counts twice": wrap(Learner, "vote", count_twice),
    "decided without a majority": wrap(Learner, "_next_decided", without_majority),
    "the leader is trusted across ballots": wrap(Learner, "_next_decided", trust_any_ballot),
    "a record of another ballot is decided": wrap(Learner, "_next_decided", any_record_will_do),
    "the values of promises are ignored": wrap(
        Election, "on_promise", alter_promise(without_values)
    ),
    "the truncation of a promiser is ignored": wrap(
        Election, "on_promise", alter_promise(without_truncation)
    ),
    "the lowest ballot's value is proposed again": wrap(Election, "on_promise", lowest_ballot_wins),
    "a candidate forgets its own records": wrap(Election, "prepare", forget_own_records),
    "holes are closed instead of filled": wrap(
        Election, "backlog", no_ops_in_holes_only_at_the_end
    ),
    "values proposed again get a new time": wrap(Election, "backlog", new_time),
    "two replicas have the same ballot": wrap(Election, "_next_ballot", shared_ballots),
    "deposed leaders are followed": wrap(Replica, "_follow", follow_anybody),
    "catch-up serves what is not decided": wrap(Catchup, "serve", serve_undecided),
    "catch-up writes below the promise": wrap(Acceptor, "learn", learn_below_promise),
    "a read without a quorum": wrap(ReadConfirmation, "confirmed", confirm_at_once),
    "a read confirmed by an old heartbeat": wrap(
        ReadConfirmation, "confirmed", old_acknowledgements_count
    ),
    "a read index of decided slots only": wrap(
        Leadership, "last_proposed", lambda f: property(lambda self: self._learner.decided_upto)
    ),
    "a read does not wait for its slot": wrap(_ReadGate, "pass_through", answer_now),
    "sessions are lost in a crash": wrap(Node, "start", forget_sessions),
    "duplicates are run again": wrap(Session, "stored", lambda f: lambda self, q: None),
    "requests below the lowest are run": wrap(SessionTable, "_command", run_below_lowest),
    "an expired session is opened again": wrap(SessionTable, "_command", reopen_expired),
    "a command that raises is not undone": wrap(
        Overlay, "rollback", lambda f: lambda self: self.merge(1 << 62)
    ),
}

VOTING = (Prepare, Accept, PreVote, Heartbeat, TakeOver)

RECOVERY_MUTANTS: dict[str, tuple[Mutant, str]] = {
    "a replica that forgot takes part at once": (
        wrap(SimStore, "recovered", lambda f: lambda self: replace(f(self), recovering=False)),
        "epoch",
    ),
    "a recovering replica votes": (
        wrap(Recovery, "handlers", without_handlers(*VOTING)),
        "view",
    ),
    "a recovering replica promises": (
        wrap(Recovery, "handlers", without_handlers(Prepare)),
        "epoch",
    ),
    "a recovering replica confirms reads": (
        wrap(Recovery, "handlers", without_handlers(Heartbeat)),
        "epoch",
    ),
    "a recovering replica answers another one": (
        wrap(Recovery, "handlers", without_handlers(Recover)),
        "epoch",
    ),
    "its own answer is counted": (wrap(Recovery, "__init__", count_own_answer), "epoch"),
    "the leader's answer is not awaited": (wrap(Recovery, "_aim", without_leader), "view"),
    "any leader's answer will do": (wrap(Recovery, "_aim", any_leader), "epoch"),
    "the log end is a follower's": (wrap(Recovery, "_aim", log_end_of_a_follower), "view"),
    "the log end is what the leader knows decided": (
        wrap(Recovery, "on_reply", alter_answer(log_end_is_what_is_decided)),
        "view",
    ),
    "answers of an earlier life count": (wrap(Recovery, "on_reply", any_life), "epoch"),
    "it takes part before it has caught up": (wrap(Recovery, "tick", do_not_catch_up), "view"),
    "the highest ballot is not promised again": (
        wrap(Recovery, "_aim", do_not_promise_again),
        "epoch",
    ),
    "a forgotten promise counts": (wrap(Election, "won", count_forgotten_promises), "epoch"),
    "promises tell no lives": (wrap(Lives, "vector", promises_tell_no_lives), "epoch"),
    "lives are not durable": (wrap(SimStore, "begin_life", lives_are_forgotten), "pmem"),
    "an answer leaves before the life is noted": (
        wrap(Lives, "began", lambda f: lambda self, turn, replica, life: None),
        "epoch",
    ),
    "a replaced replica is trusted after a restart": (
        wrap(SimStore, "begin_life", replaced_and_trusted),
        "pmem",
    ),
    "lost records look as if they had never been": (
        wrap(Acceptor, "__init__", lost_records_never_were),
        "view",
    ),
}
"""Mistakes in recovery, and the durability setting to look for them in."""

EARLY_MUTANTS: dict[str, Mutant] = {
    "an early accept counts as a vote": wrap(Replica, "_on_accept", early_accepts_are_votes),
    "an early accept tells what is decided": wrap(
        Leadership, "propose", early_accepts_tell_what_is_decided
    ),
    "the leader's vote leaves early": wrap(Replica, "step", everything_is_early),
}
"""Mistakes with accepts that leave before the leader's own record is durable."""

RECOVERY_SEEN_ELSEWHERE = {
    "any leader's answer will do",
    "answers of an earlier life count",
    "lost records look as if they had never been",
}
"""Those that random schedules seldom notice: test_mutants.py names the tests that do."""

SEEN_ELSEWHERE = {
    "a record of another ballot is decided": "exhaustive",
    "the lowest ballot's value is proposed again": "exhaustive",
    "the truncation of a promiser is ignored": "unit",
    "deposed leaders are followed": "unit",
    "a read confirmed by an old heartbeat": "unit",
    "an expired session is opened again": "unit",
}
"""Mutants that random schedules seldom notice, and the rung that does: tests/exhaustive, or the
tests that test_mutants.py names."""
