"""The cost of a family or of replicates, and the check that every member can be run.

Both are computed before the family is accepted; the check is repeated at its first turn.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pruning.data.builtin import describe_dataset
from pruning.data.preprocessing import choose_preprocessing
from pruning.errors import BudgetError, DataError, ParameterError, SecateurError
from pruning.family.members import Member, build_member_job, list_members
from pruning.family.sizes import Size, build_sizes
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec

SUMMED = ("rounds", "steps", "units", "flops")


def size_networks(spec: FamilySpec, known: dict[str, Any] | None) -> tuple[Size, ...]:
    """Return the size of every network of the family.

    `known` describes the uploaded dataset. Raises a `SecateurError` for a network that cannot be
    built, or a family that does not fit its data.
    """
    data = describe_dataset(spec.dataset.builtin, known)
    _check_task(data)
    _check_max_error(spec, data)
    _check_train_limit(spec, data["counts"]["train"])
    model = {"architecture": spec.model.architecture, "kwargs": spec.model.kwargs}
    shape = choose_preprocessing(spec.dataset, model, data).shape
    return build_sizes(spec, shape, data["classes"], data["task"])


def _check_task(data: dict[str, Any]) -> None:
    if data["task"] != "classification":
        raise DataError(
            f"families are for classification, the dataset is for {data['task']}",
            pointer="/dataset/id",
        )


def _check_max_error(spec: FamilySpec, data: dict[str, Any]) -> None:
    """Refuse a tolerated error that guessing would meet: the best constant answer on the test
    images, or where these were not looked at 1 - 1/classes.
    """
    classes = len(data["classes"])
    chance, guess = data.get("guessing_error"), "the best constant answer"
    if chance is None:
        chance, guess = 1 - 1 / classes, f"guessing among {classes} classes"
    if spec.max_error and max(spec.max_error) >= chance:
        raise ParameterError(
            f"max_error {max(spec.max_error):g}: {guess} has an error of {chance:g}; tolerate less",
            pointer="/max_error",
        )


def _check_train_limit(spec: FamilySpec, images: int) -> None:
    """Refuse a limit above the number of images, of which a fraction would mean something else."""
    limit = spec.dataset.limit.train
    if isinstance(limit, int) and limit > images and min(spec.members.fractions) < 1:
        raise ParameterError(
            f"train {limit}: there are {images} training images, and members train on fractions "
            f"of these, not of {limit}; leave it out",
            pointer="/dataset/limit/train",
        )


def count_member_units(document: dict[str, Any], known: dict[str, Any] | None) -> float:
    """Return the work of one member's job, in forward passes of one image."""
    from pruning.masks import find_prunable
    from pruning.networks import resolve
    from pruning.networks.loading import build_outline
    from pruning.pipeline.evaluation_traits import reads_losses
    from pruning.rounds.costs import Costs, count_split_images
    from pruning.training.batchnorm import has_running_statistics

    spec = JobSpec.model_validate(document)
    recipe = spec.recipe()
    data = describe_dataset(spec.dataset.builtin, known)
    images = count_split_images(recipe, data["counts"])
    classes = len(data["classes"])
    assert spec.model.architecture is not None
    architecture = resolve(
        spec.model.architecture, spec.model.kwargs, shape=data["shape"], classes=classes
    )
    outline = build_outline(architecture)
    costs = Costs(
        recipe,
        images,
        classes,
        reads_losses=reads_losses(recipe),
        has_batchnorm=has_running_statistics(outline),
        layers=len(find_prunable(outline, recipe.exclude, recipe.include)),
    )
    return float(costs.total)


def estimate_replicates(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the costs of a pruning job: the sums over its replicates, and the memory of one."""
    from pruning.pipeline.estimate_job import estimate_job

    spec = payload["spec"]
    uploads = (payload["model"], payload["dataset"], payload["shifted"], payload.get("backbone"))
    estimate = estimate_job(
        spec,
        *uploads,
        pruned=payload.get("pruned", ()),
        most_data_bytes=payload.get("most_data_bytes"),
    )
    count = spec.get("replicates", 1)
    summed = {name: count * estimate[name] for name in (*SUMMED, "checkpoints")}
    scaled = {
        key: {name: count * units for name, units in estimate[key].items()}
        for key in ("parts", "evaluations")
    }
    return estimate | summed | scaled


def estimate_family(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the sums over all members, and the memory of the largest.

    An adaptive family may run fewer members; the networks that answer its questions are not
    counted. Every kind of member is planned and rehearsed as its own job would be; the refusal of
    a kind points at the field of the family that can be changed.
    """
    spec = FamilySpec.model_validate(payload["spec"])
    dataset = payload["dataset"]
    sizes = {(size.depth, size.width): size for size in size_networks(spec, dataset)}
    classes = len(describe_dataset(spec.dataset.builtin, dataset)["classes"])
    members = list_members(spec)
    kinds = Counter((member.depth, member.width, member.fraction) for member in members)
    total: dict[str, Any] = dict.fromkeys(SUMMED, 0)
    total |= {"checkpoints": 0, "memory_bytes": 0, "warnings": []}
    parts: Counter[str] = Counter()
    for (depth, width, fraction), count in kinds.items():
        member = Member(
            depth=depth,
            width=width,
            fraction=fraction,
            seed=spec.members.seeds[0],
            rounds=spec.rounds,
            density=spec.keep**spec.rounds,
        )
        estimate = _estimate_member(spec, member, sizes[depth, width], payload)
        for name in SUMMED:
            total[name] += count * estimate[name]
        parts.update({name: count * units for name, units in estimate["parts"].items()})
        total["memory_bytes"] = max(total["memory_bytes"], estimate["memory_bytes"])
        total["images"] = estimate["images"]
        total["decoded_images"] = estimate["decoded_images"]
        total["preprocessing"] = estimate["preprocessing"]
        warnings = [
            *estimate["warnings"],
            *_warn_of_scarce_images(spec, fraction, estimate["images"]["fit"], classes),
        ]
        total["warnings"] += [text for text in warnings if text not in total["warnings"]]
    if spec.adaptive is not None:
        most = min(spec.adaptive.max_members or len(members), len(members))
        total["warnings"].append(
            f"adaptive: at most {most} of {len(members)} members are run; this is the cost of all"
        )
    return total | {"parts": dict(parts)} | {"evaluations": {}}


def _warn_of_scarce_images(
    spec: FamilySpec, fraction: float, images: int, classes: int
) -> list[str]:
    """Return a warning where a fraction leaves fewer training images than there are classes.

    Raises `ParameterError` where it leaves none.
    """
    if images < 1:
        raise ParameterError(
            f"fraction {fraction:g}: no image is left to train on once one is set aside for "
            "validation; train on more",
            pointer="/members/fractions" if fraction < 1 else "/dataset/limit/train",
        )
    if images >= classes:
        return []
    remaining = "1 image is" if images == 1 else f"{images} images are"
    return [
        f"fraction {fraction:g}: {remaining} left to train on, of {classes} classes: members never "
        "see some of them"
    ]


def _estimate_member(
    spec: FamilySpec, member: Member, size: Size, payload: dict[str, Any]
) -> dict[str, Any]:
    from pruning.pipeline.estimate_job import estimate_job

    try:
        return estimate_job(
            build_member_job(spec, member, size.kwargs),
            None,
            payload["dataset"],
            [],
            most_data_bytes=payload.get("most_data_bytes"),
        )
    except SecateurError as error:
        message = f"depth {member.depth:g}, width {member.width:g}: {error.message}"
        raise type(error)(message, pointer=_find_family_pointer(error)) from None


def _find_family_pointer(error: SecateurError) -> str:
    """Return the field of the family that a refusal of a member's job is about."""
    if isinstance(error, BudgetError):
        return "/floor_density"
    if error.pointer is not None and error.pointer.startswith(("/dataset", "/model")):
        return error.pointer
    return "/members"
