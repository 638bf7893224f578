"""Dense networks that are no baseline: they guess, or their outputs are not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.data.tensors import Data, Split
from pruning.errors import BaselineMismatchError, NonFiniteError
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.measure import Measured
from pruning.pipeline.exports import Origin
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.schemas.report import Report
from pruning.storage.stages import Stages
from pruning.verdict.baseline import check_baseline, compare_splits
from tests.support import cases
from tests.support.pipelines import CPU, Listener

ORIGIN = Origin(
    job_id="job_x",
    spec={},
    architecture="custom",
    kwargs={},
    model_sha256=None,
    dataset_name="d",
    dataset_sha256="",
)


def skewed(counts: tuple[int, int] = (90, 10)) -> Data:
    """Images whose mean tells the class, of two classes of unequal size, the same in all splits."""
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 40, (len(labels), 1, 2, 2), generator=rng)
    images += 100 * labels[:, None, None, None]
    split = Split(images.to(torch.uint8), labels)
    return Data(fit=split, val=split, test=split, classes=("a", "b"), mean=(0.0,), std=(1.0,))


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def knowing() -> dict[str, Tensor]:
    """Weights that tell the classes by the mean of an image, through small weights that are pruned
    first; the bias alone answers class 0.
    """
    model = build()
    with torch.no_grad():
        model.get_parameter("1.weight").fill_(0.1)
        model.get_parameter("1.bias").zero_()
        model.get_parameter("3.weight").copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        model.get_parameter("3.bias").copy_(torch.tensor([0.4, -0.1]))
    return dict(model.state_dict())


def run(state: dict[str, Tensor], folder: Path, **fields: Any) -> Pipeline:
    recipe = cases.recipe(0.5, retrain={"mode": "none"}, batchnorm="keep", evaluations=[], **fields)
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(build, state),
        data=skewed(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    return pipeline


def report(pipeline: Pipeline, folder: Path) -> Report:
    results = Results(pipeline, ORIGIN, folder / "files")
    for record in pipeline.done:
        results.export(record)
    return results.report()


def test_a_network_that_always_answers_the_majority_is_warned_of(tmp_path: Path) -> None:
    state = knowing()
    state["3.weight"].zero_()
    document = report(run(state, tmp_path), tmp_path)
    assert "10.0 % of the test images, no better than chance: always answering 'a' (10.0 %)" in (
        " ".join(document.warnings)
    )
    assert document.recommendation.checkpoint is None


def test_a_network_that_always_answers_the_minority_is_refused(tmp_path: Path) -> None:
    state = knowing()
    state["3.weight"].zero_()
    state["3.bias"].mul_(-1)
    with pytest.raises(
        BaselineMismatchError, match=r"wrong on 90\.0 % .* answering 'a' \(10\.0 %\)"
    ):
        run(state, tmp_path)


def test_a_checkpoint_that_collapsed_to_the_majority_is_not_recommended(tmp_path: Path) -> None:
    pipeline = run(knowing(), tmp_path, gates={"max_error_increase": 0.5})
    assert not bool(pipeline.given_measured.wrong.any())
    document = report(pipeline, tmp_path)
    (checkpoint,) = document.checkpoints
    assert document.data.guessing_error == pytest.approx(0.1)
    assert checkpoint.error.value == pytest.approx(0.1)
    assert checkpoint.val_error_increase.value < 0.5
    assert checkpoint.guesses
    assert document.recommendation.checkpoint is None


def test_a_network_that_knows_the_rare_class_at_the_price_of_errors_is_warned_of() -> None:
    data = skewed((180, 20))
    wrong = torch.zeros(200, dtype=torch.bool)
    wrong[:25] = True
    warnings: list[str] = []
    measured = Measured(wrong, torch.zeros(200), wrong)
    check_baseline(measured, data, trained=False, warn=warnings.append)
    (warning,) = warnings
    assert "12.5 %, is no lower than that of always answering 'a' (10.0 %)" in warning
    wrong[20:] = False
    check_baseline(measured, data, trained=False, warn=warnings.append)
    assert len(warnings) == 2
    wrong[15:] = False
    check_baseline(measured, data, trained=False, warn=warnings.append)
    assert len(warnings) == 2


def test_a_network_of_nan_is_refused_by_the_name_of_its_tensor(tmp_path: Path) -> None:
    state = knowing()
    state["2.running_var"][0] = -0.5
    with pytest.raises(
        NonFiniteError,
        match=r"100 of 100 test images.* layer '2' \(BatchNorm1d\); its running_var holds -0\.5",
    ):
        run(state, tmp_path)


def test_a_network_that_overflows_on_the_validation_images_alone_is_refused(tmp_path: Path) -> None:
    data = skewed()
    bright = Split(torch.full_like(data.val.images, 255), data.val.labels)
    recipe = cases.recipe(0.5, retrain={"mode": "none"}, batchnorm="keep")
    state = knowing()
    state["1.weight"].fill_(1e38)
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(build, state),
        data=replace(data, val=bright, test=Split(bright.images * 0, bright.labels)),
        stages=Stages(tmp_path, recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    with pytest.raises(NonFiniteError, match="for 100 of 100 validation images"):
        pipeline.run()


@pytest.mark.parametrize(("wrong_in_validation", "is_told"), [(0, True), (12, False)])
def test_unlike_errors_on_validation_and_test_images_are_told(
    wrong_in_validation: int, is_told: bool
) -> None:
    warnings: list[str] = []
    val, test = binomial_interval(wrong_in_validation, 200), binomial_interval(20, 200)
    compare_splits(val, test, warn=warnings.append)
    compare_splits(test, val, warn=warnings.append)
    assert len(warnings) == 2 * is_told
    assert all("further apart than chance" in warning for warning in warnings)
