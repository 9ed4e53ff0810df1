"""The state machine of the simulated world: made so that every mistake shows."""

from __future__ import annotations

import struct

from mpaxos.machine import Context, Dict, StateMachine, Value

ADD, READ, RAISE = b"a", b"r", b"x"

_NUMBER = struct.Struct(">Q")


class Ledger(StateMachine):
    """A counter, and how often each named addition was run.

    Requests: `a` and a name of 8 bytes adds one; the reply is the new total and how often this name
    was run. `r` reads the total. `x` changes the total and then raises.
    """

    total: Value[int]
    runs: Dict[bytes, int]

    def execute(self, request: bytes, context: Context) -> bytes:
        total = self.total.get(0)
        if request[:1] == RAISE:
            self.total.set(total + 1_000_000)
            raise ValueError("as asked")
        name = request[1:]
        runs = self.runs.get(name, 0) + 1
        self.runs[name] = runs
        self.total.set(total + 1)
        return _NUMBER.pack(total + 1) + _NUMBER.pack(runs)

    def read(self, request: bytes, context: Context) -> bytes:
        return _NUMBER.pack(self.total.get(0))


def add_request(name: int) -> bytes:
    return ADD + _NUMBER.pack(name)


def parse(reply: bytes) -> tuple[int, ...]:
    """The numbers of a reply."""
    return tuple(_NUMBER.unpack_from(reply, at)[0] for at in range(0, len(reply), _NUMBER.size))
