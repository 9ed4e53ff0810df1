"""The two axes of a replica's memory, and which of their combinations there are.

`durability`: what an acceptor makes durable before it answers. `machine`: where the state lives.
What each survives and costs is in docs/durability.md.
"""

from __future__ import annotations

DURABILITIES = ("pmem", "disk", "view", "epoch", "none")
MACHINES = ("persistent", "volatile")

KEEPS_LOG = frozenset({"pmem", "disk"})
"""The log survives a crash: a restarted replica forgets nothing, all may crash at once."""

FORGETS = frozenset({"view", "epoch"})
"""A restarted replica forgets votes, and asks the others before it takes part again."""

SURVIVES = {
    "pmem": "survives the crash of any number of replicas, all at once too",
    "disk": "survives the crash of any number of replicas, all at once too",
    "view": "survives the crash of a minority at a time: a majority must stay up",
    "epoch": "survives the crash of a minority at a time: a majority must stay up",
    "none": "survives the crash of a minority: a crashed replica does not come back under its id",
}
"""Per durability, for people. What a crash of the machine does depends on the memory, too:
mpaxos.config.files."""


def default_machine(durability: str) -> str:
    """Where the state lives when the cluster file does not say."""
    return "persistent" if durability == "pmem" else "volatile"


def axes_problem(durability: str, machine: str) -> str | None:
    """What is wrong with a combination, or None."""
    if durability not in DURABILITIES:
        return f"durability = {durability!r}: must be one of {', '.join(DURABILITIES)}"
    if machine not in MACHINES:
        return f"machine = {machine!r}: must be one of {', '.join(MACHINES)}"
    if machine == "persistent" and durability != "pmem":
        return (
            f"machine = 'persistent' does not go with durability = {durability!r}: a persistent "
            "machine lives in the pool, in which the log is as durable as pmem makes it. Choose "
            'durability = "pmem", or machine = "volatile"'
        )
    return None
