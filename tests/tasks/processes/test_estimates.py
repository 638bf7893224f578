"""The cost of a family, and the refusals before it is stored."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.errors import BudgetError, DataError, ParameterError, SecateurError
from pruning.family.members import Member, build_member_job, list_members
from pruning.family.sizes import build_sizes
from pruning.schemas.family import FamilySpec
from tasks.helper import HelperError, run_helper
from tasks.processes.estimates import SUMMED, count_member_units, estimate_family
from tasks.processes.helper import estimate

pytest.importorskip("torch")

SPEC: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 2, "rewind_epoch": 1}},
    "dataset": {"id": "dst_00000000", "limit": {"train": 400}},
    "keep": 0.7,
    "floor_density": 0.1,
    "members": {"depths": [1, 2], "widths": [4, 8], "fractions": [0.25, 1], "seeds": [0, 7]},
}


def data(side: int = 8, channels: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a dataset as the store describes it."""
    return {
        "shape": [channels, side, side],
        "classes": [str(number) for number in range(10)],
        "counts": {"train": 1000, "test": 200},
        "task": "classification",
        **changes,
    }


def payload(known: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {"spec": {**SPEC, **changes}, "model": None, "dataset": known or data(), "shifted": []}


def refused(
    kind: type[SecateurError], pointer: str, known: dict[str, Any] | None = None, **changes: Any
) -> str:
    """Return the message of a refusal that points there."""
    with pytest.raises(kind) as caught:
        estimate_family(payload(known, **changes))
    assert caught.value.pointer == pointer, caught.value
    return caught.value.message


def singles(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the estimates of all members, each as a job of its own."""
    spec, known = FamilySpec.model_validate(question["spec"]), question["dataset"]
    networks = {
        (size.depth, size.width): size
        for size in build_sizes(spec, known["shape"], known["classes"], known["task"])
    }
    return [
        estimate(
            {
                **question,
                "spec": build_member_job(spec, member, networks[member.depth, member.width].kwargs),
            }
        )
        for member in list_members(spec)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"method": "synflow", "model": {"architecture": "mlp", "train": {"epochs": 2}}},
        {"exclude": ["fc1.weight"]},
        {"include": [{"kind": "Linear"}], "exclude": ["fc1"]},
        {"dataset": {"id": "dst_00000000"}},
    ],
)
def test_a_family_costs_what_its_members_cost(change: dict[str, Any]) -> None:
    question = payload(**change)
    estimate, estimates = estimate_family(question), singles(question)
    assert len(estimates) == 16
    for name in SUMMED:
        assert estimate[name] == pytest.approx(sum(single[name] for single in estimates)), name
    assert estimate["rounds"] == 16 * 6
    assert estimate["memory_bytes"] == max(single["memory_bytes"] for single in estimates)
    assert set(estimate["warnings"]) == {
        text for single in estimates for text in single["warnings"]
    }


def test_a_members_progress_ends_where_its_estimate_does() -> None:
    question = payload()
    spec, known = FamilySpec.model_validate(question["spec"]), question["dataset"]
    kwargs = {
        (size.depth, size.width): size.kwargs
        for size in build_sizes(spec, known["shape"], known["classes"], known["task"])
    }
    for member, single in zip(list_members(spec), singles(question), strict=True):
        assert count_member_units(
            build_member_job(spec, member, kwargs[member.depth, member.width]), known
        ) == pytest.approx(single["units"])


def test_the_helper_answers_for_a_family_too() -> None:
    estimate = run_helper("estimate", payload(adaptive={"max_members": 5}))
    assert estimate["units"] == pytest.approx(estimate_family(payload())["units"])
    assert (
        "adaptive: at most 5 of 16 members are run; this is the cost of all" in estimate["warnings"]
    )
    builtin = run_helper("estimate", payload(dataset={"builtin": "digits"}) | {"dataset": None})
    assert builtin["rounds"] == 96
    with pytest.raises(HelperError) as caught:
        run_helper(
            "estimate", payload(model={"architecture": "densenet22", "train": {"epochs": 1}})
        )
    assert (caught.value.code, caught.value.pointer) == ("invalid_parameter", "/model/architecture")


def test_candidates_are_built_but_cost_nothing() -> None:
    wide = {"depths": [1, 3], "widths": [4, 64]}
    assert estimate_family(payload(candidates=wide)) == estimate_family(payload())
    message = refused(
        ParameterError, "/candidates/widths", candidates={"depths": [1], "widths": [4.5]}
    )
    assert "depth 1, width 4.5" in message


def test_an_architecture_without_depth_and_width_is_refused() -> None:
    message = refused(
        ParameterError,
        "/model/architecture",
        model={"architecture": "lenet_300_100", "train": {"epochs": 1}},
    )
    assert "takes no depth and width; those that do: cifar_resnet, densenet, " in message
    with pytest.raises(SecateurError, match="unknown architecture"):
        estimate_family(payload(model={"architecture": "cifar_resne", "train": {"epochs": 1}}))


def test_sizes_that_an_architecture_does_not_have_are_refused() -> None:
    def resnet(**members: Any) -> str:
        return refused(
            ParameterError,
            "/members/depths",
            data(32, 3),
            members={"depths": [8], "widths": [0.25], **members},
            model={"architecture": "cifar_resnet", "train": {"epochs": 1}},
        )

    assert "depth 9, width 0.25" in resnet(depths=[8, 9])
    assert "6n+2" in resnet(depths=[9]).replace(" ", "")
    assert "depth 12, width 0.25" in refused(
        ParameterError,
        "/members/depths",
        data(32, 3),
        members={"depths": [12], "widths": [0.25]},
        model={"architecture": "vgg", "train": {"epochs": 1}},
    )
    assert "whole number" in refused(
        ParameterError, "/members/widths", members={"depths": [1], "widths": [2.5]}
    )


@pytest.mark.parametrize(
    ("architecture", "kwargs"),
    [
        ("cifar_resnet", {"depth": 8}),
        ("cifar_resnet", {"width": 1}),
        ("mlp", {"hidden": [4]}),
        ("mlp", {"activation": "sine"}),
        ("mlp", {"hiden": 3}),
    ],
)
def test_arguments_that_are_the_members_or_nobodys_are_refused(
    architecture: str, kwargs: dict[str, Any]
) -> None:
    refused(
        ParameterError,
        "/model/kwargs",
        data(32, 3),
        members={"depths": [8], "widths": [1]},
        model={"architecture": architecture, "kwargs": kwargs, "train": {"epochs": 1}},
    )


def test_a_floor_at_which_nothing_is_removed_is_refused() -> None:
    message = refused(
        BudgetError,
        "/floor_density",
        members={"depths": [1], "widths": [1]},
        keep=0.8,
        floor_density=0.0005,
    )
    assert "depth 1, width 1" in message


def test_data_that_do_not_fit_are_refused_where_they_are_named() -> None:
    vgg = {
        "model": {"architecture": "vgg", "train": {"epochs": 1}},
        "members": {"depths": [11], "widths": [0.25]},
    }
    with pytest.raises(DataError) as caught:
        estimate_family(payload(data(28), **vgg))
    assert "32 x 32" in caught.value.message
    assert caught.value.pointer is not None
    assert caught.value.pointer.startswith("/dataset")
    message = refused(DataError, "/dataset/id", data(task="segmentation"))
    assert "families are for classification" in message


def test_fractions_of_more_images_than_there_are_are_refused() -> None:
    """Members at a quarter and at all of 5,000 images would be trained on the same 1,000."""
    dataset = {"id": "dst_00000000", "limit": {"train": 5000}}
    message = refused(ParameterError, "/dataset/limit/train", dataset=dataset)
    assert "there are 1000 training images" in message
    whole = {"depths": [1], "widths": [4]}
    assert estimate_family(payload(dataset=dataset, members=whole)) == estimate_family(
        payload(dataset={"id": "dst_00000000"}, members=whole)
    )
    assert estimate_family(
        payload(dataset={"id": "dst_00000000", "limit": {"train": 1000}})
    ) == estimate_family(payload(dataset={"id": "dst_00000000"}))


@pytest.mark.parametrize(
    ("tolerated", "fine"), [([0.1, 0.95], False), ([0.9], False), ([0.1, 0.89], True), ([], True)]
)
def test_an_error_that_guessing_has_is_refused(tolerated: list[float], fine: bool) -> None:
    if fine:
        assert estimate_family(payload(max_error=tolerated))["rounds"] == 96
        return
    message = refused(ParameterError, "/max_error", max_error=tolerated)
    assert "guessing among 10 classes has an error of 0.9; tolerate less" in message
    assert "of 0.75" in refused(
        ParameterError, "/max_error", data(classes=list("abcd")), max_error=[0.75]
    )


def test_guessing_is_the_best_constant_answer_where_the_labels_are_known() -> None:
    known = data(guessing_error=0.3)
    assert estimate_family(payload(known, max_error=[0.29]))["rounds"] == 96
    message = refused(ParameterError, "/max_error", known, max_error=[0.3])
    assert "the best constant answer has an error of 0.3; tolerate less" in message


def test_fractions_that_leave_few_images_are_warned_of_or_refused() -> None:
    def members(*fractions: float) -> dict[str, Any]:
        return {"depths": [1, 2], "widths": [4], "fractions": fractions}

    def warned(*fractions: float, **changes: Any) -> list[str]:
        warnings = estimate_family(payload(members=members(*fractions), **changes))["warnings"]
        return [warning for warning in warnings if warning.startswith("fraction")]

    assert warned(0.03, 1.0) == []  # 12 of 400, 1 for validation
    assert warned(0.005, 0.02, 1.0) == [
        "fraction 0.005: 1 image is left to train on, of 10 classes: members never see some of "
        "them",
        "fraction 0.02: 7 images are left to train on, of 10 classes: members never see some of "
        "them",
    ]
    message = refused(ParameterError, "/members/fractions", members=members(1e-6, 1.0))
    assert "fraction 1e-06: no image is left to train on" in message
    few = {"id": "dst_00000000", "limit": {"train": 1}}
    refused(ParameterError, "/dataset/limit/train", members=members(1.0), dataset=few)


def test_weights_that_cannot_be_excluded_are_refused() -> None:
    smallest = {"depths": [1], "widths": [4]}
    assert "nothing is left" in refused(
        ParameterError, "/exclude", exclude=["fc1.weight", "fc2.weight"], members=smallest
    )
    message = refused(
        ParameterError, "/exclude/0", exclude=["fc3.weight"]
    )  # not every member has it
    assert "is not a prunable weight" in message
    refused(ParameterError, "/include/1", include=["fc1", {"kind": "Conv2d"}])


def test_an_answer_is_a_job_like_the_members() -> None:
    spec = FamilySpec.model_validate(payload()["spec"])
    (size, *_) = build_sizes(
        spec, [1, 8, 8], [str(number) for number in range(10)], "classification"
    )
    answer = Member(
        role="answer", depth=1, width=4, fraction=1.0, seed=8, rounds=3, density=0.2, max_error=0.3
    )
    answered = estimate({**payload(), "spec": build_member_job(spec, answer, size.kwargs)})
    assert answered["rounds"] == 5


def test_replicates_cost_as_many_times_as_one_run() -> None:
    spec = {
        "type": "prune",
        "model": {"architecture": "mlp", "train": {"epochs": 2}},
        "dataset": {"id": "dst_00000000"},
        "targets": {"sparsity": [0.5, 0.9]},
        "evaluations": [{"name": "prune_potential", "params": {"noise": [0.1]}}],
    }
    asked: dict[str, Any] = {"model": None, "dataset": data(), "shifted": []}
    single = estimate(asked | {"spec": spec})
    several = estimate(asked | {"spec": spec | {"replicates": 3}})
    for name in (*SUMMED, "checkpoints"):
        assert several[name] == 3 * single[name] > 0
    assert several["evaluations"]["prune_potential"] == 3 * single["evaluations"]["prune_potential"]
    assert several["memory_bytes"] == single["memory_bytes"]
