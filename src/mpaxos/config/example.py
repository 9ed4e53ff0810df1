"""A cluster file to start from."""

from __future__ import annotations

import json
import secrets

DEFAULT_PEER, DEFAULT_CLIENT, DEFAULT_JPAXOS = 4001, 3001, 2001
"""First ports of the example; replica N adds N."""


def new_cluster_id() -> str:
    """32 random hexadecimal digits."""
    return secrets.token_hex(16)


def example(
    name: str = "demo",
    *,
    replicas: int = 3,
    service: str = "mpaxos.services.kv:KeyValue",
    directory: str = "data",
) -> str:
    """The text of a cluster file for `replicas` replicas on this machine, with a fresh id."""
    parts = [
        f'''\
# An mpaxos cluster. The same file goes to every machine; `mpaxos init` then makes the
# data of one replica and `mpaxos serve` runs it.

name = {json.dumps(name)}
id = "{new_cluster_id()}"  # never reuse it for another cluster
service = {json.dumps(service)}
durability = "pmem"      # promise and log in persistent memory
machine = "persistent"   # the state too

[pool]
size = "512 MiB"      # file of each replica; put `directory` on pmem (DAX) or tmpfs
log_size = "128 MiB"

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
