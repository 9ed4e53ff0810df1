"""Another build of the extension for this process, if the environment names one: a mutant."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

VARIABLE = "MPAXOS_CRASH_NATIVE"


def use_given_extension() -> None:
    """Take mpaxos._native from where $MPAXOS_CRASH_NATIVE says. To be called before anything of
    mpaxos is imported: an extension that is loaded twice has no types the second time."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    if "mpaxos" in sys.modules:
        raise ImportError(f"mpaxos was imported before {path} could take the place of its part")
    spec = importlib.util.spec_from_file_location("mpaxos._native", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mpaxos._native"] = module
    spec.loader.exec_module(module)


def probe(native: Path, environment: dict[str, str]) -> None:
    """Raise RuntimeError unless a process with `environment` runs on `native`: a mutant that cannot
    even be loaded fails every workload, and none of that shows that it was noticed."""
    code = (
        "import tests.crash.worker, sys; "
        "sys.exit(sys.modules['mpaxos._native'].__file__ != sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(native)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{native} is not what the workloads run on: {done.stderr[-2000:]}")
