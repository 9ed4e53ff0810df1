"""The requests of one client and the session they belong to. No I/O, no clock.

A request first waits; when the window has room it is given a sequence of the session and is in
flight, until it is answered or given up. It keeps its sequence however often and to however many
replicas it is sent: that is what makes it run at most once (docs/sessions.md). `lowest` tells the
cluster which sequences nobody waits for any more; it also keeps late copies of given-up requests
from being run.

Queries are not logged and may be run any number of times; they have numbers of their own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from mpaxos.client import wire
from mpaxos.errors import ClientError, NoQuorum, OutcomeUnknown, Overloaded, SessionExpired


class Answer(Protocol):
    """A future, of asyncio or of concurrent.futures."""

    def done(self) -> bool: ...
    def set_result(self, result: bytes, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Request:
    """One call on its way."""

    __slots__ = (
        "answer",
        "attempts",
        "deadline",
        "kind",
        "payload",
        "refused",
        "sent_at",
        "sequence",
    )

    def __init__(self, kind: int, payload: bytes, deadline: float, answer: Answer) -> None:
        self.kind = kind
        self.payload = payload
        self.deadline = deadline
        self.answer = answer
        self.sequence = 0
        self.attempts = 0
        """How many times it was sent without being told that it was not executed."""
        self.refused = 0
        """Status of the last refusal, 0 if there was none."""
        self.sent_at = 0.0

    def fail(self, error: ClientError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Ledger:
    """What is waiting and what is in flight."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.session = 0
        self.commands: dict[int, Request] = {}
        self.queries: dict[int, Request] = {}
        self._waiting: dict[int, deque[Request]] = {wire.COMMAND: deque(), wire.QUERY: deque()}
        self._next_command = 1
        self._next_query = wire.FIRST_QUERY
        self._earliest = math.inf
        """No waiting request has a deadline before this."""

    def __len__(self) -> int:
        waiting = self._waiting
        return (
            len(self.commands)
            + len(self.queries)
            + len(waiting[wire.COMMAND])
            + len(waiting[wire.QUERY])
        )

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting[request.kind].append(request)
        self._earliest = min(self._earliest, request.deadline)

    def lowest(self) -> int:
        """The lowest sequence whose reply somebody still waits for; the next one if there is
        none."""
        for sequence, request in self.commands.items():
            if not request.answer.done():
                return sequence
        return self._next_command

    def admit(self) -> list[Request]:
        """Move waiting requests into flight, in their order, as the window allows."""
        admitted: list[Request] = []
        waiting = self._waiting[wire.COMMAND]
        if waiting:
            # The cluster refuses sequences from `lowest` + window on: the distance counts, not how
            # many are in between.
            end = self.lowest() + self.window
            while waiting and self._next_command < end:
                request = waiting.popleft()
                if not request.answer.done():
                    request.sequence = self._next_command
                    self._next_command += 1
                    self.commands[request.sequence] = request
                    admitted.append(request)
        waiting = self._waiting[wire.QUERY]
        while waiting and len(self.queries) < self.window:
            request = waiting.popleft()
            if not request.answer.done():
                request.sequence = self._next_query
                self._next_query += 1
                self.queries[request.sequence] = request
                admitted.append(request)
        return admitted

    def in_flight(self) -> Iterator[Request]:
        """Commands by sequence, then queries."""
        yield from self.commands.values()
        yield from self.queries.values()

    def find(self, sequence: int) -> Request | None:
        """The request in flight with this number."""
        return (self.commands if sequence < wire.FIRST_QUERY else self.queries).get(sequence)

    def forget(self, request: Request) -> None:
        """The request is answered or given up."""
        table = self.commands if request.kind == wire.COMMAND else self.queries
        if table.get(request.sequence) is request:
            del table[request.sequence]

    def closing_sequence(self) -> int:
        """A sequence for the request that closes the session."""
        self._next_command += 1
        return self._next_command - 1

    def expire_session(self) -> None:
        """The cluster has forgotten the session: commands that may have been run fail, those that
        surely were not go to the next session, queries too."""
        again = []
        for request in self.commands.values():
            if request.attempts:
                request.fail(
                    SessionExpired(
                        "the cluster has forgotten this session; commands in flight may or may not "
                        "have happened. The next call opens a new session"
                    )
                )
            else:
                again.append(request)
        self.commands.clear()
        self.session = 0
        self._next_command = 1
        self._waiting[wire.COMMAND].extendleft(reversed(again))
        self._earliest = min([self._earliest, *(request.deadline for request in again)])

    def expire(self, now: float, unsent: Callable[[], ClientError]) -> None:
        """Fail what is past its deadline, drop what was cancelled. `unsent` makes the error for
        requests that were never sent."""
        for table in (self.commands, self.queries):
            for request in [r for r in table.values() if r.deadline <= now or r.answer.done()]:
                del table[request.sequence]
                request.fail(given_up(request, unsent))
        if self._earliest <= now:
            for kind, waiting in self._waiting.items():
                for request in waiting:
                    if request.deadline <= now:
                        request.fail(unsent())
                self._waiting[kind] = deque(r for r in waiting if not r.answer.done())
            left = (r.deadline for waiting in self._waiting.values() for r in waiting)
            self._earliest = min(left, default=math.inf)

    def fail_waiting(self, error: Callable[[], ClientError]) -> None:
        """Fail all that was never sent."""
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().fail(error())
        self._earliest = math.inf

    def fail_all(self, unsent: Callable[[], ClientError]) -> None:
        """Give up everything."""
        for table in (self.commands, self.queries):
            for request in table.values():
                request.fail(given_up(request, unsent))
            table.clear()
        self.fail_waiting(unsent)


def given_up(request: Request, unsent: Callable[[], ClientError]) -> ClientError:
    """The error of a request that is given up without an answer."""
    if request.attempts:
        if request.kind == wire.QUERY:
            return NoQuorum("the query was not answered before its deadline; asking again is safe")
        return OutcomeUnknown(
            "the command was sent and not answered before its deadline: it may or may not have "
            "happened, at most once"
        )
    if request.refused == wire.OVERLOADED:
        return Overloaded("not executed: the queues of the cluster are full; try later")
    if request.refused == wire.REFUSED:
        return NoQuorum("not executed: no majority of the replicas can be reached; try later")
    return unsent()
