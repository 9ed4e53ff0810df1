"""How large a world the exhaustive search looks at."""

from __future__ import annotations

import msgspec

from mpaxos.core.types import ReplicaId


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one search. Delivery in any order, loss and duplication are never bounded."""

    name: str
    replicas: int
    elections: tuple[ReplicaId, ...]
    """Which replicas seek votes; one that is named twice may do so twice. Each may start at any
    moment, whatever the others do: these are the competing ballots."""
    slots: int
    """Commands that each of these replicas has to propose, in every life."""
    crashes: int = 0
    """Crashes of any replica at any moment: at rest, or in a turn after any number of its writes
    and before its messages. It recovers at once: being away is the same as losing messages."""
    heartbeats: bool = True
    """A new leader's heartbeats, which tell followers what is decided."""
    applies: bool = False
    """State machines apply at once what is decided; otherwise they are slower than all the rest."""
    catch_up: bool = False
    """Replicas may fetch from others what they miss."""
    durability: str = "pmem"
    """What a crashed replica still knows; with `view` and `epoch` it has to recover first."""
    early: bool = False
    """Accepts leave before the leader's own writes, as with `disk`; a crash may come between."""

    @property
    def text(self) -> str:
        """In words."""
        parts = [
            f"{self.replicas} replicas",
            f"{len(self.elections)} ballots",
            f"{self.slots} slot{'s' * (self.slots > 1)}",
            f"{self.crashes} crash{'es' * (self.crashes != 1)}",
        ]
        if not self.heartbeats:
            parts.append("no heartbeats")
        if self.applies:
            parts.append("applying")
        if self.catch_up:
            parts.append("catch-up")
        if self.durability != "pmem":
            parts.append(f"durability {self.durability}")
        if self.early:
            parts.append("early accepts")
        return ", ".join(parts)


def _scope(
    name: str,
    replicas: int,
    elections: tuple[ReplicaId, ...],
    slots: int,
    crashes: int = 0,
    *,
    heartbeats: bool = True,
    applies: bool = False,
    catch_up: bool = False,
    durability: str = "pmem",
    early: bool = False,
) -> Scope:
    return Scope(
        name=name,
        replicas=replicas,
        elections=elections,
        slots=slots,
        crashes=crashes,
        heartbeats=heartbeats,
        applies=applies,
        catch_up=catch_up,
        durability=durability,
        early=early,
    )


SCOPES = {
    scope.name: scope
    for scope in (
        _scope("quick", 3, (0, 1), 1, heartbeats=False),
        _scope("crash", 3, (0, 1), 1, 1, heartbeats=False),
        _scope("told", 3, (0, 1), 1, applies=True),
        _scope("early", 3, (0, 1), 1, 1, heartbeats=False, early=True),
        _scope("slots", 3, (0, 1), 2, heartbeats=False),
        _scope("three", 3, (0, 1, 2), 1, heartbeats=False),
        _scope("four", 3, (0, 1, 2, 1), 1, heartbeats=False),
        _scope("main", 3, (0, 1), 2, 1, heartbeats=False),
        _scope("all", 3, (0, 1), 2, 1),
        _scope("catch-up", 3, (0, 1), 1, 1, applies=True, catch_up=True),
        _scope("view", 3, (0, 1), 1, 1, heartbeats=False, catch_up=True, durability="view"),
        _scope("epoch", 3, (0, 1), 1, 1, heartbeats=False, catch_up=True, durability="epoch"),
        _scope("five-epoch", 5, (0, 1), 1, 1, heartbeats=False, catch_up=True, durability="epoch"),
        _scope("five", 5, (0, 1), 1, heartbeats=False),
        _scope("five-three", 5, (0, 1, 2), 1, heartbeats=False),
        _scope("five-crash", 5, (0, 1), 1, 1, heartbeats=False),
        _scope("five-early", 5, (0, 1), 1, 1, heartbeats=False, early=True),
    )
}
"""By name, the small ones first."""
