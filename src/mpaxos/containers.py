"""Containers for state machines: `from mpaxos.containers import Dict`."""

from mpaxos.machine.containers import Dict, Set, Value

__all__ = ["Dict", "Set", "Value"]
