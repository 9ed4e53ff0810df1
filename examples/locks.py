"""Locks that expire: time comes from the context, never from a clock.

mpaxos dev examples.locks:Locks
python examples/locks.py 127.0.0.1:3001
"""

from __future__ import annotations

import sys

import msgspec

import mpaxos
from mpaxos import StateMachine, command, query
from mpaxos.containers import Dict

SECOND = 1_000_000_000


class Lock(msgspec.Struct):
    """Who holds a lock, until when (nanoseconds), and the number of this holding."""

    owner: str
    until: int
    token: int


class Locks(StateMachine):
    """Named locks. The token grows with every holding: pass it to whatever the lock protects, so
    that a holder whose time ran out can be told from its successor."""

    locks: Dict[str, Lock]

    @command
    def acquire(self, name: str, owner: str, seconds: int) -> int | None:
        """Take or renew a lock; returns the token, None while somebody else holds it."""
        now = self.context.time
        held = self.locks.get(name)
        if held is not None and held.until > now and held.owner != owner:
            return None
        renewed = held is not None and held.owner == owner and held.until > now
        # The slot is larger than that of any earlier holding.
        token = held.token if held is not None and renewed else self.context.slot
        self.locks[name] = Lock(owner, now + seconds * SECOND, token)
        return token

    @command
    def release(self, name: str, owner: str) -> bool:
        """Give a lock back; False when the owner does not hold it."""
        held = self.locks.get(name)
        if held is None or held.owner != owner:
            return False
        del self.locks[name]
        return True

    @query
    def held(self, prefix: str = "") -> list[tuple[str, Lock]]:
        """Locks whose name begins with `prefix`, expired ones included."""
        return list(self.locks.prefix(prefix))


def main(addresses: str) -> None:
    """Two owners want the same lock."""
    with mpaxos.connect_blocking(addresses, Locks) as locks:
        print("ann gets", locks.acquire("printer", "ann", 30))
        print("bob gets", locks.acquire("printer", "bob", 30))
        locks.release("printer", "ann")
        print("bob gets", locks.acquire("printer", "bob", 30))
        print("held:", locks.held())
        locks.release("printer", "bob")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:3001")
