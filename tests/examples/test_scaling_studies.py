"""The studies of a finished family, on a simulated one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from examples import scaling_studies
from examples.scaling_studies import Points, study_few_points, study_scales
from tests.support.law_cases import simulate_family


def simulate_results() -> dict[str, Any]:
    family = simulate_family(0)
    members = []
    for depth, width in sorted(set(zip(family.depth, family.width, strict=True))):
        own = (family.depth == depth) & (family.width == width)
        members.append(
            {
                "depth": depth,
                "width": width,
                "fraction": 1.0,
                "unpruned_error": float(family.unpruned_measured[own][0]),
                "densities": family.density[own].tolist(),
                "errors": family.error[own].tolist(),
            }
        )
    return {"members": [*members, members[0] | {"errors": [], "densities": []}]}


def read_spread(text: str) -> float:
    match = re.search(r"± ([\d.]+)%", text)
    assert match is not None
    return float(match[1]) / 100


def test_few_points_suffice_and_small_networks_tell_large_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors have a noise of 3 %: the law of all points comes near it, others not much less."""
    for name, value in {"DRAWS": 2, "FEW_POINTS": (40,), "FEW_NETWORKS": (5,)}.items():
        monkeypatch.setattr(scaling_studies, name, value)
    points = Points.of(simulate_results())
    assert len(points.error) == len(simulate_family(0).error)
    assert len(np.unique(points.network)) == 9
    few = dict(study_few_points(points, classes=10))
    spreads = [read_spread(few[name]) for name in few]
    assert list(few) == ["all points", "40 points, 2 of 2 draws", "5 networks, 2 of 2 draws"]
    assert spreads[0] < 0.05
    assert read_spread(few["40 points, 2 of 2 draws"]) < 1.5 * spreads[0]
    scales = dict(study_scales(points, classes=10))
    assert set(scales) == {
        "smaller half of the networks",
        "narrower half",
        "shallower half",
        "denser half of the points",
    }
    assert read_spread(scales["smaller half of the networks"]) < 0.1
