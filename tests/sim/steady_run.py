"""Simulated runs with another build of the extension, until one fails:

python -m tests.sim.steady_run EXTENSION world|twin SEEDS
"""

from __future__ import annotations

import importlib.util
import sys


def main(native: str, seen_by: str, seeds: str) -> int:
    """Exit status 1, and the failure on standard output, when some run fails."""
    # Before anything of mpaxos is imported.
    spec = importlib.util.spec_from_file_location("mpaxos._native", native)
    if spec is None or spec.loader is None:
        raise ValueError(f"no extension: {native}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mpaxos._native"] = module
    spec.loader.exec_module(module)

    import mpaxos
    from mpaxos import _native
    from mpaxos.sim.world import World
    from tests.sim.twin import make_twin

    if _native.__file__ != native:
        raise ValueError(f"{_native.__file__} was loaded by {mpaxos.__file__}, not {native}")
    for seed in range(int(seeds)):
        for replicas in (3, 5):
            if seen_by == "twin":
                world = World(seed, replicas, make_replica=make_twin, steady=False)
            else:
                world = World(seed, replicas)
            failure = world.run().failure
            if failure is not None:
                print(f"seed {seed}, {replicas} replicas: {failure.splitlines()[0]}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
