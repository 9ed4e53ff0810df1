"""State machines that behave badly, for test_machine."""

from __future__ import annotations

import time

from mpaxos import StateMachine, command, query
from mpaxos.containers import Dict


class Trouble(StateMachine):
    """Raises, hangs, answers nonsense, all on request."""

    numbers: Dict[str, int]

    @command
    def add(self, key: str, amount: int) -> int:
        """The new sum."""
        self.numbers[key] = self.numbers.get(key, 0) + amount
        return self.numbers[key]

    @command
    def fail(self, key: str, text: str) -> int:
        """Change something, then raise: the change must be undone."""
        self.numbers[key] = 1_000_000
        raise ValueError(text)

    @command
    def nonsense(self, key: str) -> int:
        """Change something, then return what is no int: the change must be undone."""
        self.numbers[key] = 1_000_000
        return object()  # type: ignore[return-value]

    @command
    def slow(self, seconds: float) -> int:
        """Run for so long."""
        time.sleep(seconds)
        return self.add("slow", 1)

    @command
    def forget(self, key: str) -> bool:
        """Remove a sum; whether there was one."""
        return self.numbers.pop(key, None) is not None

    @command
    def note_time(self) -> int:
        """The time of this command."""
        return self.context.time

    @query
    def now(self) -> int:
        """The time that queries see."""
        return self.context.time

    @query
    def get(self, key: str) -> int:
        """The sum."""
        return self.numbers.get(key, 0)
