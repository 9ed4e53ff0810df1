"""The cluster file: one TOML file, the same on every machine, says what the cluster is.

A setting comes from, in falling order of precedence: an argument (`--set pool.size=1GiB`), the
environment (`MPAXOS_POOL_SIZE=1GiB`), the file, the default. Unknown keys are refused with the
nearest known one: a misspelt limit that is silently ignored is worse than a replica that does not
start. Every complaint is a ConfigError naming the file, the key and what is allowed.
"""

from __future__ import annotations

from mpaxos.config.example import example, new_cluster_id
from mpaxos.config.load import from_dict, load
from mpaxos.config.schema import (
    ClusterConfig,
    DiskConfig,
    LimitsConfig,
    PoolConfig,
    ProtocolConfig,
    ReplicaConfig,
    SnapshotsConfig,
    agreement,
    default_state_limit,
)
from mpaxos.config.values import Address, format_size, parse_address, parse_size

__all__ = [
    "Address",
    "ClusterConfig",
    "DiskConfig",
    "LimitsConfig",
    "PoolConfig",
    "ProtocolConfig",
    "ReplicaConfig",
    "SnapshotsConfig",
    "agreement",
    "default_state_limit",
    "example",
    "format_size",
    "from_dict",
    "load",
    "new_cluster_id",
    "parse_address",
    "parse_size",
]
