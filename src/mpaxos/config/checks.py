"""Checks that need more than one key of a cluster file."""

from __future__ import annotations

import importlib.util
import re

from mpaxos.config.durability import axes_problem
from mpaxos.config.schema import RECORDS_PER_SEGMENT, ClusterConfig
from mpaxos.config.values import GIB, KIB, MIB, format_size, parse_address
from mpaxos.errors import ConfigError

MIN_POOL = 16 * MIB
"""libpmemobj itself takes 8 MiB as the smallest pool; below this nothing useful is left."""

BLOCK = 4 * KIB
"""What the log on disk writes at least, and at multiples of."""

SCHEDULINGS = ("batch", "inherited")

FEWEST_SEGMENTS = 3
"""Of a log on disk: the one being written, the next one, and the reserve."""


def check(config: ClusterConfig, where: str) -> None:
    """Raise ConfigError, prefixed with `where`, for the first thing that cannot work."""
    for part in (_identity, _axes, _scheduling, _replicas, _addresses, _sizes, _disk, _protocol):
        try:
            problem = part(config)
        except ConfigError as error:  # an address that cannot be parsed
            problem = str(error)
        if problem is not None:
            raise ConfigError(f"{where}: {problem}")


def warnings(config: ClusterConfig) -> list[str]:
    """What works but may not be meant; to be shown at start."""
    if len(config.replicas) == 1:
        return [
            "one replica: the service stops whenever this machine does; "
            "3 replicas go on while one is down"
        ]
    return []


def _identity(config: ClusterConfig) -> str | None:
    if not re.fullmatch(r"[0-9a-fA-F]{32}", config.id) or set(config.id) == {"0"}:
        return (
            f"id = {config.id!r}: must be 32 hexadecimal digits, not all 0, unique for this "
            "cluster; `mpaxos cluster new` writes a file with a fresh one"
        )
    module, colon, name = config.service.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    if not (colon and dotted and name.isidentifier()):
        return (
            f'service = {config.service!r}: write "module:Class", '
            'for example "mpaxos.services.kv:KeyValue"'
        )
    return None


def _axes(config: ClusterConfig) -> str | None:
    return axes_problem(config.durability, config.machine)


def _scheduling(config: ClusterConfig) -> str | None:
    if config.scheduling in SCHEDULINGS:
        return None
    return f"scheduling = {config.scheduling!r}: must be one of {', '.join(SCHEDULINGS)}"


def _replicas(config: ClusterConfig) -> str | None:
    ids = sorted(entry.id for entry in config.replicas)
    count = len(ids)
    if count not in (1, 3, 5, 7):
        return (
            f"replicas: there are {count}; must be 1, 3, 5 or 7 (an even number tolerates no "
            "more crashes than one replica less)"
        )
    if ids != list(range(count)):
        return f"replicas: ids are {ids}; must be each of 0 to {count - 1} once"
    return None


def _addresses(config: ClusterConfig) -> str | None:
    seen: dict[tuple[str, int], str] = {}
    directories: dict[tuple[str, str], str] = {}
    for entry in config.replicas:
        for port in ("peer", "client", "jpaxos"):
            key = f"replicas.{entry.id}.{port}"
            text = getattr(entry, port)
            if text is not None:
                address = parse_address(text, key)
                if address in seen:
                    return f"{key} = {text!r} is also {seen[address]}; each needs its own port"
                seen[address] = key
            listen = getattr(entry, f"listen_{port}")
            if listen is not None:
                parse_address(listen, f"replicas.{entry.id}.listen_{port}", zero=True)
                if text is None:
                    return f"replicas.{entry.id}.listen_{port} is set but {key} is not"
        # Replicas of one host must not share a directory; on different hosts they may.
        place = (parse_address(entry.peer)[0], entry.directory)
        if place in directories:
            return f"replicas.{entry.id}.directory is also that of {directories[place]}"
        directories[place] = f"replicas.{entry.id}"
    return None


def _sizes(config: ClusterConfig) -> str | None:
    pool, limits = config.pool, config.limits
    if pool.size < MIN_POOL:
        return f"pool.size = {format_size(pool.size)}: must be at least {format_size(MIN_POOL)}"
    if pool.log_size < MIB:
        return f"pool.log_size = {format_size(pool.log_size)}: must be at least 1 MiB"
    if pool.log_size * 2 > pool.size and not config.log_apart:
        return (
            f"pool.log_size = {format_size(pool.log_size)}: must be from 1 MiB to half of "
            f"pool.size, {format_size(pool.size // 2)}"
        )
    if not 1 <= limits.max_request <= 64 * MIB:
        return f"limits.max_request = {format_size(limits.max_request)}: from 1 byte to 64 MiB"
    if not 1024 <= limits.max_batch <= 64 * MIB:
        return f"limits.max_batch = {format_size(limits.max_batch)}: from 1 KiB to 64 MiB"
    if limits.max_pending < limits.max_request:
        return "limits.max_pending: must be at least limits.max_request, or none ever fits"
    largest = max(limits.max_batch, limits.max_request)
    if limits.max_reply_slots < 64:
        return "limits.max_reply_slots: must be at least 64, or a client has no window"
    if limits.max_sessions > limits.max_reply_slots:
        return "limits.max_sessions: must not exceed limits.max_reply_slots; each needs one"
    if largest * 4 > pool.log_size:
        return (
            f"limits.max_request and max_batch: the larger, {format_size(largest)}, must fit 4 "
            f"times into pool.log_size, {format_size(pool.log_size)}"
        )
    if config.state_limit < MIB:
        return (
            f"limits.state_limit = {format_size(config.state_limit)}: less than 1 MiB of state; "
            "give a larger pool.size or lower limits.max_reply_slots"
        )
    room = pool.size - (MIB if config.log_apart else pool.log_size)
    if config.state_limit > room * 9 // 10:
        return (
            f"limits.state_limit = {format_size(config.state_limit)}: at most 90 % of what the "
            f"log leaves of the pool, {format_size(room * 9 // 10)}"
        )
    return None


def _disk(config: ClusterConfig) -> str | None:
    if config.durability != "disk":
        return None
    size, needed = config.segment_size, RECORDS_PER_SEGMENT * config.largest_record
    if size % BLOCK or not 16 * BLOCK <= size <= GIB:
        return (
            f"disk.segment_size = {format_size(size)}: a multiple of 4 KiB from 64 KiB to 1 GiB; "
            "if it is not set, lower limits.max_request or limits.max_batch"
        )
    if size < needed:
        return (
            f"disk.segment_size = {format_size(size)}: must be at least {RECORDS_PER_SEGMENT} "
            "times the largest batch, as set by limits.max_request and limits.max_batch: "
            f"{needed} bytes; make it larger, lower these, or leave it out"
        )
    if config.pool.log_size < FEWEST_SEGMENTS * size:
        return (
            f"pool.log_size = {format_size(config.pool.log_size)}: a log on disk has at least "
            f"{FEWEST_SEGMENTS} segments, here of {format_size(size)} (16 times the largest batch, "
            "or disk.segment_size): make it larger, or lower limits.max_request and "
            "limits.max_batch"
        )
    return None


def _protocol(config: ClusterConfig) -> str | None:
    p, pool = config.protocol, config.pool
    if p.election_ms < 3 * p.heartbeat_ms:
        return (
            f"protocol.election_ms = {p.election_ms}: must be at least three heartbeats, "
            f"{3 * p.heartbeat_ms}, or one late heartbeat deposes a leader"
        )
    in_flight = p.window * config.limits.max_batch
    if in_flight * 2 > pool.log_size:
        return (
            f"protocol.window = {p.window}: window * limits.max_batch, "
            f"{format_size(in_flight)}, must be at most half of pool.log_size, "
            f"{format_size(pool.log_size // 2)}"
        )
    return None


def importable(service: str) -> str | None:
    """Why "module:Class" cannot be found, or None; imports only the parents of the module."""
    module = service.partition(":")[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    return None if found else f"service = {service!r}: there is no module {module!r} to import"
