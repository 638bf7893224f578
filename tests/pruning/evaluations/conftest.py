"""A finished job for evaluations under shift, and pictures that are drawn only on request."""

from __future__ import annotations

import pytest

import pruning.evaluations._lost_images
import pruning.evaluations.informative_features
import pruning.evaluations.robustness
from pruning.pipeline.results import Results
from pruning.schemas.report import Picture
from tests.support import cases
from tests.support.finished_records import finish_job
from tests.support.pipelines import MODES
from tests.support.shifted_jobs import TWO_CRITERIA


@pytest.fixture
def drawn() -> None:
    """Ask for pictures that are drawn."""


@pytest.fixture(autouse=True)
def leave_undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures blank: drawing takes longer than everything else."""
    if "drawn" not in request.fixturenames:
        blank = Picture(caption="", png="")
        monkeypatch.setattr(
            pruning.evaluations.robustness, "draw_grid", lambda *args, **fields: blank
        )
        monkeypatch.setattr(
            pruning.evaluations.informative_features, "draw_grid", lambda *args, **fields: blank
        )
        monkeypatch.setattr(
            pruning.evaluations._lost_images, "draw_grid", lambda *args, **fields: blank
        )
        monkeypatch.setattr(
            pruning.evaluations.informative_features, "draw_heatmap", lambda *args: blank
        )


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A job of two criteria with three targets each, retrained."""
    return finish_job(
        cases.recipe(0.3, 0.6, 0.9, **TWO_CRITERIA, **MODES["fine_tune"]),
        tmp_path_factory.mktemp("cascade"),
    )
