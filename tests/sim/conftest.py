"""These tests replace parts of the protocol by broken ones, which only its source allows."""

from __future__ import annotations

import os
import sys

import pytest

if "mpaxos" not in sys.modules:
    os.environ["MPAXOS_PURE"] = "1"

from mpaxos.compiled import PURE, RUNS

if RUNS == "compiled":
    pytest.exit(f"run this folder in a pytest of its own, or set {PURE}=1", returncode=4)
