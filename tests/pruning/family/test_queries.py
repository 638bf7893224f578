"""Questions to the law in the report of a family."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.errors import ParameterError
from pruning.family.answers import SAME_DENSITY
from pruning.laws.family_queries import (
    answer_error,
    forecast_networks,
    list_family_candidates,
    read_family_law,
)
from pruning.schemas.family_report import FamilyReport
from tests.support import family_world as world


def test_the_report_answers_as_its_law_does() -> None:
    report = FamilyReport.model_validate_json(world.reported().model_dump_json()).model_dump(
        mode="json"
    )
    law = read_family_law(report)
    assert law is not None
    networks = list_family_candidates(report, None, None)
    assert len(networks) == 9
    rows = forecast_networks(law, list_family_candidates(report, 2, 16), [0.5, 0.1], 0.9)
    estimates = law.predict(2, 16, np.array([0.5, 0.1]), rows[0]["unpruned_error"])
    assert [row["error"]["value"] for row in rows] == [estimate.value for estimate in estimates]  # type: ignore[union-attr]
    rows_at_error = answer_error(law, networks, 0.12, 0.9)
    assert [row["parameters"] for row in rows_at_error] == sorted(
        row["parameters"] for row in rows_at_error
    )
    assert (rows_at_error[0]["depth"], rows_at_error[0]["width"]) == (
        report["answers"][0]["depth"],
        report["answers"][0]["width"],
    )
    assert rows_at_error[0]["density"] == pytest.approx(
        report["answers"][0]["density"], rel=SAME_DENSITY
    )
    with pytest.raises(ParameterError, match="no network of depth 7") as caught:
        list_family_candidates(report, 7, None)
    assert caught.value.pointer == "/depth"


def test_many_densities_are_predicted_as_one_by_one() -> None:
    report = world.reported().model_dump(mode="json")
    law = read_family_law(report)
    assert law is not None
    networks = list_family_candidates(report, None, None)
    kept = [0.9, 0.3, 0.05]
    assert forecast_networks(law, networks, kept, 0.9) == [
        forecast_networks(law, [network], [d], 0.9)[0] for network in networks for d in kept
    ]
    with pytest.raises(ParameterError, match="at most 10000 together"):
        forecast_networks(law, networks, [0.5] * 2000, 0.9)


def test_a_refusal_at_one_density_leaves_the_others_predicted() -> None:
    """No error rises to 1.5 times the unpruned one: the law is for measured densities alone."""
    report = world.reported(
        world.spec(
            floor_density=0.45, members={"depths": [3, 4], "widths": [32, 64]}, confirm=False
        )
    ).model_dump(mode="json")
    law = read_family_law(report)
    assert law is not None
    inside, beyond = forecast_networks(law, list_family_candidates(report, 3, 32), [0.7, 0.01], 0.9)
    assert inside["error"]["value"] > 0
    assert beyond["error"] is None
    assert beyond["remark"].startswith("insufficient_points: ")
