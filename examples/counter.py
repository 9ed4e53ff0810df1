"""The smallest service: a number, with the blocking client.

mpaxos dev examples.counter:Counter
python examples/counter.py 127.0.0.1:3001
"""

from __future__ import annotations

import sys

import mpaxos
from mpaxos import StateMachine, command, query
from mpaxos.containers import Value


class Counter(StateMachine):
    """Counts."""

    total: Value[int]

    @command
    def add(self, amount: int = 1) -> int:
        """Count on; returns the new total."""
        total = self.total.get(0) + amount
        self.total.set(total)
        return total

    @query
    def current(self) -> int:
        """The total."""
        return self.total.get(0)


def main(addresses: str) -> None:
    """Count to a thousand, many requests in flight."""
    with mpaxos.connect_blocking(addresses, Counter) as counter:
        before = counter.current()
        futures = [counter.submit(Counter.add, 1) for _ in range(1000)]
        print(f"from {before} to {max(future.result() for future in futures)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:3001")
