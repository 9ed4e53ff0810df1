"""A cluster file to start from."""

from __future__ import annotations

import json
import os

from mpaxos.config.durability import default_machine

DEFAULT_PEER, DEFAULT_CLIENT, DEFAULT_JPAXOS = 4001, 3001, 2001
"""First ports of the example; replica N adds N."""


_WHAT_IS_DURABLE = {
    "pmem": "promise and log in persistent memory; or disk, view, epoch, none",
    "disk": "promise and log on disk, synced before an answer leaves",
    "view": "the promise alone, synced at a change of leader: a majority must stay up",
    "epoch": "a count of the starts alone: a majority must stay up",
    "none": "nothing: a crashed replica does not come back",
}
_WHERE_STATE_IS = {
    "persistent": "the state in persistent memory, too",
    "volatile": "the state in a scratch pool, with snapshots in the replica's directory",
}


def _sizes(durability: str, machine: str) -> str:
    """The sections about memory, for this combination."""
    if machine == "persistent":
        return """\
[pool]
size = "512 MiB"      # file of each replica; put `directory` on pmem (DAX) or tmpfs
log_size = "128 MiB"\
"""
    parts = [
        """\
[pool]
size = "512 MiB"      # of the scratch pool with the state, made anew at each start
log_size = "128 MiB"
# scratch = "/dev/shm"  # where it is: memory
"""
    ]
    if durability == "disk":
        parts.append(
            """
[disk]
# segment_size = "17 MiB"   # at least 16 times the largest batch
"""
        )
    if durability != "none":
        parts.append(
            """
[snapshots]
# ratio = 1.0           # one is taken when so many times its size has been applied since the last
# minimum = "16 MiB"    # but at least this much
"""
        )
    return "".join(parts).rstrip("\n")


def new_cluster_id() -> str:
    """32 random hexadecimal digits."""
    return os.urandom(16).hex()


def example(
    name: str = "demo",
    *,
    replicas: int = 3,
    service: str = "mpaxos.services.kv:KeyValue",
    directory: str = "data",
    durability: str = "pmem",
    machine: str | None = None,
) -> str:
    """The text of a cluster file for `replicas` replicas on this machine, with a fresh id.

    `machine`: None for what suits the durability.
    """
    machine = machine or default_machine(durability)
    parts = [
        f'''\
# An mpaxos cluster. The same file goes to every machine; `mpaxos init` then makes the
# data of one replica and `mpaxos serve` runs it.

name = {json.dumps(name)}
id = "{new_cluster_id()}"  # never reuse it for another cluster
service = {json.dumps(service)}
durability = {json.dumps(durability)}   # {_WHAT_IS_DURABLE.get(durability, "")}
machine = {json.dumps(machine)}   # {_WHERE_STATE_IS.get(machine, "")}

{_sizes(durability, machine)}

[limits]
max_request = "1 MiB"
# max_sessions = 16384         # the least recently used one beyond this is forgotten
# max_reply_slots = 262144
# state_limit = "200 MiB"      # default: 60 % of what log, sessions and replies leave

[protocol]
# heartbeat_ms = 50
# election_ms = 400
# window = 16
'''
    ]
    for number in range(replicas):
        parts.append(
            f"""
[[replicas]]
id = {number}
peer = "127.0.0.1:{DEFAULT_PEER + number}"
client = "127.0.0.1:{DEFAULT_CLIENT + number}"
jpaxos = "127.0.0.1:{DEFAULT_JPAXOS + number}"   # clients written for JPaxos; may be left out
directory = "{directory}/{number}"
"""
        )
    return "".join(parts)
