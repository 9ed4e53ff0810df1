"""The state machine that is compared with the native key-value service: the same in Python."""

from __future__ import annotations

from mpaxos.containers import Dict
from mpaxos.machine import StateMachine, command, query

PYTHON = "mpaxos.bench.services:PythonKeyValue"


class PythonKeyValue(StateMachine):
    """put and get of a persistent Dict, each a method that Python runs."""

    data: Dict[str, bytes]

    @command
    def put(self, key: str, value: bytes) -> None:
        """Set the value of `key`."""
        self.data[key] = value

    @query
    def get(self, key: str) -> bytes | None:
        """The value of `key`, None when there is none."""
        return self.data.get(key)
