"""What every built-in dataset must keep."""

from __future__ import annotations

import pytest

from pruning.data.builtin import datasets


@pytest.mark.parametrize("name", datasets.names())
def test_dataset_loads_alike_twice(name: str) -> None:
    first, second = datasets.create(name).load(), datasets.create(name).load()
    assert first.classes == second.classes
    assert len(set(first.classes)) == len(first.classes)
    for split in first.images:
        assert (first.images[split] == second.images[split]).all()
        assert (first.labels[split] == second.labels[split]).all()
    assert first.images["train"].max() > 127, "grey values do not fill 0..255"
