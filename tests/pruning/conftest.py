"""The tests of the pruning core share `cases.py` and `oracles.py`, one folder up."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(autouse=True)
def no_power_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of tiny stage files need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def seeded_networks() -> None:
    """Networks whose test says nothing of their weights get the same ones in every run."""
    torch.manual_seed(0)
