"""Fixtures of the tests of `pruning/`."""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def no_power_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of tiny stage files need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def seeded_networks() -> None:
    """Networks whose test says nothing of their weights get the same ones in every run."""
    torch.manual_seed(0)
