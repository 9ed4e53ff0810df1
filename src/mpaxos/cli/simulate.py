"""`mpaxos sim`: runs seeds of the simulated world and says which failed, and how to replay them."""

from __future__ import annotations

import time

import msgspec
from rich.console import Console
from rich.progress import track

from mpaxos.cli.errors import FAILED, OK
from mpaxos.errors import ConfigError
from mpaxos.sim import run


def simulate(seed: int, count: int, replicas: int, *, trace: bool, as_json: bool) -> int:
    """Run `count` seeds from `seed` on; 0 when all kept the invariants, else 1."""
    if count < 1:
        raise ConfigError(f"--count {count}: at least 1")
    if replicas not in (1, 3, 5, 7):
        raise ConfigError(f"--replicas {replicas}: must be 1, 3, 5 or 7")
    console = Console()
    seeds = range(seed, seed + count)
    quiet = trace or as_json or not console.is_terminal
    failed = []
    began = time.monotonic()
    for number in seeds if quiet else track(seeds, "simulating", console=console):
        outcome = run(number, replicas=replicas, trace=print if trace else None)
        if as_json:
            print(msgspec.json.encode(outcome).decode())
        if outcome.failure is not None:
            failed.append(number)
            if not as_json:
                console.print(f"seed {number}: {outcome.failure}", markup=False, soft_wrap=True)
    if not as_json:
        rate = count / max(1e-9, time.monotonic() - began)
        console.print(f"{count} seeds, {rate:.1f} per second, {len(failed)} failed")
        if failed:
            replay = f"mpaxos sim --seed {failed[0]} --count 1 --replicas {replicas} --trace"
            console.print(f"replay the first with: {replay}", soft_wrap=True)
    return FAILED if failed else OK
