"""What a family will cost, and whether every member of it can be run: asked before it is accepted,
and at its first turn.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pruning.data.builtin import describe_dataset
from pruning.errors import BudgetError, DataError, ParameterError, SecateurError
from pruning.family.members import Member, build_member_job, list_members
from pruning.family.sizes import Size, build_sizes
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec

SUMMED = ("rounds", "steps", "units", "flops")


def size_networks(spec: FamilySpec, known: dict[str, Any] | None) -> tuple[Size, ...]:
    """Every network of the family; raises for what cannot be built or does not fit the data."""
    data = describe_dataset(spec.dataset.builtin, known)
    if data["task"] != "classification":
        raise DataError(
            f"families are for classification, the dataset is for {data['task']}",
            pointer="/dataset/id",
        )
    chance = 1 - 1 / len(data["classes"])
    if spec.max_error and max(spec.max_error) >= chance:
        raise ParameterError(
            f"max_error {max(spec.max_error):g}: guessing among {len(data['classes'])} classes "
            "has an "
            f"error of {chance:g}; tolerate less",
            pointer="/max_error",
        )
    limit, images = spec.dataset.limit.train, data["counts"]["train"]
    if isinstance(limit, int) and limit > images and min(spec.members.fractions) < 1:
        raise ParameterError(
            f"train {limit}: of {images} training images, fractions of {limit} are not what "
            "members would "
            "get; leave it out",
            pointer="/dataset/limit/train",
        )
    return build_sizes(spec, data["shape"], data["classes"], data["task"])


def count_member_units(document: dict[str, Any], known: dict[str, Any] | None) -> float:
    """The work of one member's job, in forward passes of one image."""
    from pruning.rounds.costs import Costs, count_split_images

    spec = JobSpec.model_validate(document)
    recipe = spec.recipe()
    data = describe_dataset(spec.dataset.builtin, known)
    return float(
        Costs(recipe, count_split_images(recipe, data["counts"]), len(data["classes"])).total
    )


def estimate_family(payload: dict[str, Any]) -> dict[str, Any]:
    """The sum over all members (an adaptive family may run fewer), without the answers; the memory
    of the largest.

    Every kind of member is planned and rehearsed as its own job would be. Its refusal points at
    what the family can change.
    """
    spec = FamilySpec.model_validate(payload["spec"])
    networks = {(one.depth, one.width): one for one in size_networks(spec, payload["dataset"])}
    classes = len(describe_dataset(spec.dataset.builtin, payload["dataset"])["classes"])
    kinds = Counter((one.depth, one.width, one.fraction) for one in list_members(spec))
    total: dict[str, Any] = {
        **dict.fromkeys(SUMMED, 0),
        "checkpoints": 0,
        "memory_bytes": 0,
        "warnings": [],
    }
    for (depth, width, fraction), count in kinds.items():
        member = Member(
            depth=depth,
            width=width,
            fraction=fraction,
            seed=spec.members.seeds[0],
            rounds=spec.rounds,
            density=spec.keep**spec.rounds,
        )
        found = _estimate_member(spec, member, networks[depth, width], payload["dataset"])
        for name in SUMMED:
            total[name] += count * found[name]
        total["memory_bytes"] = max(total["memory_bytes"], found["memory_bytes"])
        total |= {"images": found["images"], "decoded_images": found["decoded_images"]}
        told = [
            *found["warnings"],
            *_warn_of_scarce_images(spec, fraction, found["images"]["fit"], classes),
        ]
        total["warnings"] += [one for one in told if one not in total["warnings"]]
    most = spec.adaptive.max_members if spec.adaptive is not None else None
    if spec.adaptive is not None:
        total["warnings"].append(
            f"adaptive: at most {min(most or len(list_members(spec)), len(list_members(spec)))} of "
            f"{len(list_members(spec))} members are run; this is the cost of all"
        )
    return total | {"evaluations": {}}


def _warn_of_scarce_images(
    spec: FamilySpec, fraction: float, images: int, classes: int
) -> list[str]:
    """What is to be said of a fraction that leaves so few images to train on; refused where it
    leaves none.
    """
    if images < 1:
        raise ParameterError(
            f"fraction {fraction:g}: no image is left to train on once one is set aside for "
            "validation; "
            "train on more",
            pointer="/members/fractions" if fraction < 1 else "/dataset/limit/train",
        )
    if images >= classes:
        return []
    left = "1 image is" if images == 1 else f"{images} images are"
    return [
        f"fraction {fraction:g}: {left} left to train on, of {classes} classes: members never "
        "see some of them"
    ]


def _estimate_member(
    spec: FamilySpec, member: Member, size: Size, known: dict[str, Any] | None
) -> dict[str, Any]:
    from pruning.pipeline.estimate_job import estimate_job

    try:
        return estimate_job(build_member_job(spec, member, size.kwargs), None, known, [])
    except SecateurError as error:
        pointer = (
            "/floor_density"
            if isinstance(error, BudgetError)
            else error.pointer
            if error.pointer is not None and error.pointer.startswith(("/dataset", "/model"))
            else "/members"
        )
        raise type(error)(
            f"depth {member.depth:g}, width {member.width:g}: {error.message}", pointer=pointer
        ) from None
