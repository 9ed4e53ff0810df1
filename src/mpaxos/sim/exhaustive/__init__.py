"""Exhaustive search of small worlds over the real protocol: every order of delivery, loss,
duplication and crash within a scope. See search for what is explored, `mpaxos exhaustive --help`
for running it."""

from __future__ import annotations

from mpaxos.sim.exhaustive.scope import SCOPES, Scope
from mpaxos.sim.exhaustive.search import Outcome, search

__all__ = ["SCOPES", "Outcome", "Scope", "search"]
