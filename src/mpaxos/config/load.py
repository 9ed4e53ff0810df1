"""Reads a cluster file, lays environment and arguments over it, and complains precisely."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from mpaxos.config.checks import check
from mpaxos.config.schema import (
    ClusterConfig,
    DiskConfig,
    LimitsConfig,
    PoolConfig,
    ProtocolConfig,
    ReplicaConfig,
    Section,
    SnapshotsConfig,
)
from mpaxos.config.values import Size, parse_size
from mpaxos.errors import ConfigError

PROCESS_VARIABLES = (
    "MPAXOS_CLUSTER",
    "MPAXOS_REPLICA",
    "MPAXOS_ADDRESS",
    "MPAXOS_LOG",
    "MPAXOS_PURE",
)
"""Variables of the command line that are no settings of a cluster."""

_SECTIONS: dict[str, type[Section]] = {
    "pool": PoolConfig,
    "disk": DiskConfig,
    "snapshots": SnapshotsConfig,
    "limits": LimitsConfig,
    "protocol": ProtocolConfig,
}
_TOP_KEYS = ("name", "id", "service", "durability", "machine", "scheduling")


def _nearest(key: str, known: Iterable[str], *, brief: bool = False) -> str:
    """A hint for a misspelt key; `brief` does not list all known ones."""
    known = sorted(known)
    import difflib  # a replica's start should not wait for it

    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0 if brief else 0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(known)}"


def _sized(kind: type[Section]) -> set[str]:
    hints = get_type_hints(kind, include_extras=True)
    return {f for f in kind.__struct_fields__ if hints[f] in (Size, Size | None)}


def _section(where: str, prefix: str, kind: type[Section], raw: object) -> Any:
    """One table of the file as its struct; `where` names the file in complaints."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: [{prefix}] must be a table of keys, not {raw!r}")
    known = kind.__struct_fields__
    for key in raw:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {prefix}.{key}; {_nearest(key, known)}")
    sized = _sized(kind)
    values = {
        key: parse_size(value, f"{where}: {prefix}.{key}") if key in sized else value
        for key, value in raw.items()
    }
    return _convert(where, prefix + ".", kind, values)


def _convert(where: str, prefix: str, kind: type[Section], values: dict[str, Any]) -> Any:
    try:
        # Not strict: values of the environment and of arguments are texts.
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`")
        given = f" = {values[key]!r}" if key in values else ""
        missing = re.search(r"missing required field `(\w+)`", text)
        if missing:
            raise ConfigError(f"{where}: {prefix}{missing[1]} is missing; it must be set") from None
        raise ConfigError(f"{where}: {prefix}{key}{given}: {text[0].lower()}{text[1:]}") from None


def load(
    path: str | Path,
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> ClusterConfig:
    """Read, complete and check the cluster file at `path`.

    `overrides` maps dotted keys ("pool.size", "replicas.0.directory") to texts and wins over
    `environ`, which wins over the file. Raises ConfigError.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; `mpaxos cluster new {path}` writes an example"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: wrong UTF-8, wrong TOML, and integers of thousands of digits.
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    layers = {
        "the environment": _from_environment(raw, environ or {}),
        "an argument": _from_arguments(raw, overrides or {}),
    }
    origins = {}
    for origin, layer in layers.items():
        _merge(raw, layer)
        origins.update({".".join(way): origin for way in layer})
    try:
        return from_dict(raw, where=str(path), base=str(path.parent))
    except ConfigError as error:
        named = next((key for key in origins if f"{key} =" in str(error)), None)
        if named is None:
            raise
        raise ConfigError(f"{error} ({named} was set by {origins[named]})") from None


def from_dict(raw: Mapping[str, Any], where: str = "cluster", base: str = ".") -> ClusterConfig:
    """The checked configuration from what a cluster file contains. Raises ConfigError."""
    known = (*_TOP_KEYS, *_SECTIONS, "replicas")
    for key in raw:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}; {_nearest(key, known)}")
    values: dict[str, Any] = {key: raw[key] for key in _TOP_KEYS if key in raw}
    for name, kind in _SECTIONS.items():
        values[name] = _section(where, name, kind, raw.get(name, {}))
    entries = raw.get("replicas", [])
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: replicas: write one [[replicas]] table per replica")
    values["replicas"] = tuple(
        _section(where, f"replicas.{index}", ReplicaConfig, entry)
        for index, entry in enumerate(entries)
    )
    values["base"] = base
    config: ClusterConfig = _convert(where, "", ClusterConfig, values)
    check(config, where)
    return config


# ------------------------------------------------------------------ environment and arguments


def _known_keys(raw: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Every dotted key that can be set for this file, with the way to it."""
    paths: list[tuple[str, ...]] = [(key,) for key in _TOP_KEYS]
    for name, kind in _SECTIONS.items():
        paths += [(name, field) for field in kind.__struct_fields__]
    entries = raw.get("replicas", [])
    for index in range(len(entries) if isinstance(entries, list) else 0):
        paths += [("replicas", str(index), f) for f in ReplicaConfig.__struct_fields__]
    return {".".join(path): path for path in paths}


def _from_environment(
    raw: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[tuple[str, ...], str]:
    known = {
        "MPAXOS_" + key.upper().replace(".", "_"): path for key, path in _known_keys(raw).items()
    }
    found = {}
    for name, value in environ.items():
        if not name.startswith("MPAXOS_") or name in PROCESS_VARIABLES:
            continue
        if name not in known:
            hint = _nearest(name, (*known, *PROCESS_VARIABLES), brief=True)
            raise ConfigError(f"environment: unknown variable {name}; {hint}")
        found[known[name]] = value
    return found


def _from_arguments(
    raw: Mapping[str, Any], overrides: Mapping[str, str]
) -> dict[tuple[str, ...], str]:
    known = _known_keys(raw)
    for key in overrides:
        if key not in known:
            hint = _nearest(key, known, brief=True)
            raise ConfigError(f"arguments: unknown key {key}; {hint}")
    return {known[key]: value for key, value in overrides.items()}


def _merge(raw: dict[str, Any], values: Mapping[tuple[str, ...], str]) -> None:
    for path, value in values.items():
        at: Any = raw
        for step in path[:-1]:
            at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
        if isinstance(at, dict):  # otherwise the file itself is wrong there, and refused as such
            at[path[-1]] = value
