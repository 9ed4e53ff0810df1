"""State machines: what users write (declare, containers, context) and what runs it (host)."""

from mpaxos.errors import ReadOnly
from mpaxos.machine.containers import Dict, Set, Value
from mpaxos.machine.context import Context
from mpaxos.machine.declare import BadRequest, StateMachine, command, query

__all__ = [
    "BadRequest",
    "Context",
    "Dict",
    "ReadOnly",
    "Set",
    "StateMachine",
    "Value",
    "command",
    "query",
]
