"""Simulated clients: sessions, several requests in flight, retries elsewhere, giving up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mpaxos.core.invariant import invariant
from mpaxos.core.sessions import (
    COMMAND,
    EXPIRED,
    FAILED,
    NOSPACE,
    OK,
    OPEN,
    OPENED,
    OVERLOADED,
    QUERY,
    REFUSED,
    Entry,
)
from mpaxos.core.settings import MILLISECOND
from mpaxos.sim.service import RAISE, READ, add_request, parse

if TYPE_CHECKING:
    from mpaxos.sim.world import World

FIRST_QUERY = 1 << 63


class Request(msgspec.Struct):
    """One request in flight."""

    kind: int
    sequence: int
    payload: bytes
    name: int
    floor: int


class Client:
    """One client; asks until the world tells it to stop asking for more."""

    def __init__(self, world: World, id: int, window: int) -> None:
        self.id = id
        self.asking = True
        self.answered = 0
        self._world = world
        self._window = window
        self._session = 0
        self._token = 0
        self._next = 1
        self._next_query = FIRST_QUERY
        self._open: dict[int, Request] = {}
        self._seen: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._target = world.rng.randrange(world.plan.replicas)
        self._heard_at = 0

    @property
    def idle(self) -> bool:
        """Nothing is unanswered."""
        return not self._open

    def tick(self) -> None:
        """Ask, ask again elsewhere, or give up."""
        rng = self._world.rng
        if self._world.now - self._heard_at > 600 * MILLISECOND:
            self._heard_at = self._world.now
            self._target = rng.randrange(self._world.plan.replicas)
            self._token = 0
            if self._open and rng.random() < 0.1:
                # Given up: whether it was run stays unknown, but it must not be run later on.
                del self._open[rng.choice(list(self._open))]
            for request in self._open.values():
                self._send(request)
        if self._session == 0:
            if self._token == 0 and (self.asking or self._open):
                self._token = rng.getrandbits(60)
                window = self._window.to_bytes(4, "little")
                self._transmit((0, self._token, 0, OPEN, window))
        elif self.asking and len(self._open) < self._window:
            self._ask()
            if rng.random() < 0.02:
                for request in self._open.values():
                    self._send(request)  # needlessly, but a client may

    def receive(self, reply: tuple[int, int, int, bytes]) -> None:
        session, sequence, status, payload = reply
        self._heard_at = self._world.now
        if status == OPENED:
            if sequence == self._token and self._session == 0:
                self._session = int.from_bytes(payload, "little")
            return
        if status in (REFUSED, OVERLOADED) or session != self._session:
            return
        if status == EXPIRED and sequence < FIRST_QUERY:
            self._forget_session()
            return
        if sequence < FIRST_QUERY:
            seen = self._seen.setdefault((session, sequence), (status, payload))
            invariant(
                seen == (status, payload),
                f"request {sequence} of session {session} was answered in two ways",
            )
        request = self._open.pop(sequence, None)
        if request is not None:
            self.answered += 1
            self._judge(request, status, payload)

    def _judge(self, request: Request, status: int, payload: bytes) -> None:
        history = self._world.history
        if request.payload == RAISE:
            invariant(status == FAILED, f"a command that raises was answered {status}")
            return
        if status == NOSPACE and request.kind == COMMAND:
            history.refused.append(request.name)
            return
        invariant(status == OK, f"{request} was answered {status} {payload!r}")
        if request.kind == QUERY:
            history.read_answered(request.floor, *parse(payload))
        else:
            total, runs = parse(payload)
            history.add_answered(request.name, request.floor, total, runs)
            if self._world.rng.random() < 0.3:
                # The moment at which a stale read would show.
                self._world.rng.choice(self._world.clients).read()

    def read(self) -> None:
        """Read the total now."""
        if self._session and self.asking and len(self._open) < 2 * self._window:
            self._next_query += 1
            floor = self._world.history.invoked_read()
            request = Request(QUERY, self._next_query, READ, 0, floor)
            self._open[request.sequence] = request
            self._send(request)

    def _ask(self) -> None:
        world = self._world
        what = world.rng.random()
        # The replicas keep replies for a window of sequences, from the lowest unanswered one on.
        if what < 0.3 or self._next >= self._lowest() + self._window:
            self.read()
            return
        if what < 0.35:
            request = Request(COMMAND, self._sequence(), RAISE, 0, 0)
        else:
            name = world.rng.getrandbits(62)
            floor = world.history.invoked_add()
            request = Request(COMMAND, self._sequence(), add_request(name), name, floor)
        self._open[request.sequence] = request
        self._send(request)

    def _sequence(self) -> int:
        self._next += 1
        return self._next - 1

    def _lowest(self) -> int:
        return min((q for q in self._open if q < FIRST_QUERY), default=self._next)

    def _send(self, request: Request) -> None:
        lowest = min(self._lowest(), request.sequence)
        self._transmit((self._session, request.sequence, lowest, request.kind, request.payload))

    def _transmit(self, entry: Entry) -> None:
        self._world.network.request(self, self._target, entry)

    def _forget_session(self) -> None:
        """The cluster forgot us: what was in flight may or may not have happened."""
        self._session = self._token = 0
        self._open.clear()
        self._next = 1
