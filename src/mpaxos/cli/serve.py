"""`mpaxos serve`: becomes one replica. Imports little; see main."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from mpaxos.cli.errors import report
from mpaxos.config import ClusterConfig, load
from mpaxos.config.checks import warnings
from mpaxos.config.durability import SURVIVES
from mpaxos.config.files import describe, process_variables, unsafe_variable
from mpaxos.errors import ConfigError, InvariantViolated, MpaxosError

PR_SET_PDEATHSIG = 1


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """ "key=value" texts as a mapping. Raises ConfigError."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: write --set key=value, e.g. --set pool.size=1GiB")
        overrides[key.strip()] = value.strip()
    return overrides


def serve_command(words: list[str]) -> int:
    """Run `mpaxos serve` with these arguments; returns the exit status."""
    try:
        arguments = _parse(words)
        _die_with(arguments.parent)
        config = load(arguments.cluster, parse_overrides(arguments.set), os.environ)
        config.replica(arguments.replica)
        _settle_environment(config, arguments.replica)
        return _serve(config, arguments.replica)
    except (MpaxosError, InvariantViolated) as error:
        return report(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _serve(config: ClusterConfig, replica: int) -> int:
    if os.getcwd() not in sys.path:  # where a service under development lies
        sys.path.insert(0, os.getcwd())
    from mpaxos.runtime.serve import serve

    for text in warnings(config):
        print(f"mpaxos: warning: {text}", file=sys.stderr, flush=True)
    directory = config.directory(replica)
    unsafe = unsafe_variable(config.durability, directory, os.environ)
    if unsafe is not None:
        print(f"mpaxos: warning: {unsafe}", file=sys.stderr, flush=True)
    print(
        f"mpaxos: replica {replica}: durability {config.durability}, {config.machine} machine: "
        f"{SURVIVES[config.durability]}",
        flush=True,
    )
    memory = describe(directory, config.durability)
    print(f"mpaxos: replica {replica}: {directory} is on {memory}", flush=True)
    return serve(config, replica)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mpaxos serve", add_help=False)
    parser.add_argument("--cluster", "-c", default=os.environ.get("MPAXOS_CLUSTER"))
    parser.add_argument("--replica", "-r", type=int, default=os.environ.get("MPAXOS_REPLICA"))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args(words)
    if arguments.cluster is None:
        raise ConfigError("serve: give --cluster FILE (or MPAXOS_CLUSTER in the environment)")
    if arguments.replica is None:
        raise ConfigError("serve: give --replica N (or MPAXOS_REPLICA in the environment)")
    return arguments


def _die_with(parent: int | None) -> None:
    """Have the kernel kill this process when `parent` is gone."""
    if parent is None:
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)


def _settle_environment(config: ClusterConfig, replica: int) -> None:
    """Start over, once, where a variable is missing that only counts at the start of a process."""
    wanted = process_variables(config.durability, config.directory(replica))
    if "PMEM_IS_PMEM_FORCE" in os.environ:
        wanted.pop("PMEM_IS_PMEM_FORCE", None)
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})
