"""What must hold of replicas that forget, beside all that holds of those that do not.

What the general invariants say of acceptors is meant over all lives: a value is chosen once a
majority *ever* accepted it in one ballot, whether they still know or not. That is Paxos's own
definition, so forgetting may never make two values chosen. What a replica told of its promises it
must find again after a crash only where the setting keeps promises. The rest is here:

- While it recovers, a replica gives no vote of any kind, and nothing that a leader would count.
- A ballot that is led has been promised by a majority; those of them that are down or recovering
  count, as they have to promise it again before they take part (and here it is seen that they do).
- Who takes part again has promised every ballot that was led when its life began, and knows each
  slot whose chosen value it had accepted, as decided or as a record.
- A life that a replica told of is known to it after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.messages import (
    Accept,
    Accepted,
    AnyMessage,
    Heartbeat,
    HeartbeatReply,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    RecoverReply,
    TakeOver,
)
from mpaxos.core.types import ZERO_BALLOT, Ballot, Record, ReplicaId, majority

if TYPE_CHECKING:
    from mpaxos.sim.node import Node

_VOTES = (
    Promise,
    Accept,
    Accepted,
    Heartbeat,
    HeartbeatReply,
    Prepare,
    PreVote,
    TakeOver,
    RecoverReply,
)


def fail(text: str) -> NoReturn:
    """Report a violation. Used where building the text for a check that holds would cost much."""
    raise InvariantViolated(text)


class MemoryChecker:
    """Watches what replicas forget and what they know when they take part again."""

    def __init__(self, replicas: int) -> None:
        self._majority = majority(replicas)
        self.nodes: list[Node] = []
        self._promised: dict[ReplicaId, Ballot] = {}
        """The highest ballot that each replica ever promised to another one, forgotten or not."""
        self._led = ZERO_BALLOT
        """The highest ballot that was ever led."""
        self._led_before: dict[tuple[ReplicaId, int], Ballot] = {}
        """The same when a life of a replica began."""
        self._told_lives: dict[tuple[ReplicaId, int], list[int]] = {}
        """What each replica told of lives, since it was replaced for the last time."""
        self._recovering: dict[ReplicaId, bool] = {}

    def started(self, node: Node) -> None:
        """A process of `node` begins."""
        store = node.store
        self._recovering[node.id] = store.recovering
        self._led_before.setdefault((node.id, store.life), self._led)
        for replica, told in enumerate(self._told_lives.get((node.id, store.replaced), ())):
            known = store.lives[replica] if replica < len(store.lives) else 1
            known = store.life if replica == node.id else known
            if known < told:
                fail(f"node {node.id} told of life {told} of {replica} and recovered {known}")

    def sending(self, node: Node, message: AnyMessage) -> None:
        """A replica says something."""
        if node.store.recovering and (
            isinstance(message, _VOTES) or (isinstance(message, PreVoteReply) and message.granted)
        ):
            fail(f"node {node.id} is recovering and says {message}")
        if isinstance(message, Promise):
            known = self._promised.get(node.id, ZERO_BALLOT)
            self._promised[node.id] = max(message.ballot, known)
        if isinstance(message, Promise | RecoverReply):
            key = (node.id, node.store.replaced)
            told = self._told_lives.get(key, message.lives)
            self._told_lives[key] = [max(pair) for pair in zip(told, message.lives, strict=True)]

    def after_turn(self, node: Node, chosen_with: Callable[[ReplicaId], Iterable[Record]]) -> None:
        """`chosen_with`: of a replica, the chosen records that it ever accepted itself."""
        if node.replica.is_leader and node.replica.ballot > self._led:
            self._took_office(node)
        recovering = node.store.recovering
        if self._recovering.get(node.id) and not recovering:
            self._takes_part(node, chosen_with(node.id))
        self._recovering[node.id] = recovering

    def _took_office(self, node: Node) -> None:
        self._led = ballot = node.replica.ballot
        givers = [
            other.id
            for other in self.nodes
            if other.store.promised >= ballot
            or (other.store.recovering and self._promised.get(other.id, ZERO_BALLOT) >= ballot)
        ]
        if len(givers) < self._majority:
            fail(f"node {node.id} leads {ballot}, which only {givers} have promised")

    def _takes_part(self, node: Node, chosen: Iterable[Record]) -> None:
        store = node.store
        led = self._led_before[node.id, store.life]
        if store.promised < led:
            fail(f"node {node.id} takes part with promise {store.promised}; {led} was led before")
        for record in chosen:
            held = store.records.get(record.slot)
            if record.slot > node.replica.decided_upto and (
                held is None or not held.value.same_as(record.value)
            ):
                fail(f"node {node.id} takes part and has forgotten {record}")
