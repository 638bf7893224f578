"""Jobs with replicates, and the seed under which images are drawn."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pruning.replicates.plan import Member, build_replicate_job, list_members
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec
from pruning.schemas.recipe import Recipe

SPEC: dict[str, Any] = {
    "type": "prune",
    "model": {"architecture": "mlp", "train": {"epochs": 1}},
    "dataset": {"builtin": "digits"},
    "targets": {"sparsity": [0.5]},
}


@pytest.mark.parametrize("count", [0, 33, 1.5, -1])
def test_the_number_of_replicates_is_a_whole_one_up_to_the_limit(count: float) -> None:
    with pytest.raises(ValidationError, match="replicates"):
        JobSpec.model_validate(SPEC | {"replicates": count})


def test_the_seeds_of_replicates_stay_below_the_largest() -> None:
    JobSpec.model_validate(SPEC | {"seed": 2**63 - 3, "replicates": 3})
    with pytest.raises(ValidationError, match="replicates: their seeds"):
        JobSpec.model_validate(SPEC | {"seed": 2**63 - 3, "replicates": 4})


def test_a_family_has_no_replicates() -> None:
    with pytest.raises(ValidationError, match=r"replicates: only pruning jobs .*members\.seeds"):
        FamilySpec.model_validate({"type": "family", "replicates": 3})


def test_replicates_differ_in_their_seed_and_see_the_same_images() -> None:
    document = SPEC | {"seed": 7, "replicates": 3, "deadline_s": 60.0}
    members = list_members(JobSpec.model_validate(document))
    assert [member.seed for member in members] == [7, 8, 9]
    specs = [JobSpec.model_validate(build_replicate_job(document, member)) for member in members]
    assert [spec.recipe().image_seed for spec in specs] == [7, 7, 7]
    assert [spec.recipe().seed for spec in specs] == [7, 8, 9]
    assert {spec.replicates for spec in specs} == {1}
    own = document | {"dataset": {"builtin": "digits", "limit": {"seed": 3}}}
    child = JobSpec.model_validate(build_replicate_job(own, Member(seed=8)))
    assert child.recipe().image_seed == 3


def test_the_seed_of_the_images_keeps_the_digest_of_recipes_that_do_not_use_it() -> None:
    def digest(**limit: Any) -> str:
        recipe = {"targets": {"sparsity": [0.5]}, "seed": 4, "limit": limit}
        return Recipe.model_validate(recipe).digest()

    assert digest() == digest(seed=4)
    assert digest() != digest(seed=5)
