"""The presets: experiments of papers by name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from api.access import Reader
from api.schemas.problem import describe_problems
from pruning.schemas.described import DescribedBy
from pruning.schemas.presets import PRESETS
from pruning.schemas.recipe import Method
from pruning.schemas.training import Train

router = APIRouter(prefix="/v1/presets", tags=["methods"])


class PresetEntry(BaseModel):
    """A preset, and what it fills in."""

    model_config = ConfigDict(extra="forbid")

    name: str
    paper: str
    runs: int
    """The networks that the paper trains under seeds of their own: a job trains as many where its
    `replicates` says so, one by default.
    """
    architecture: str
    kwargs: dict[str, Any]
    train: Annotated[dict[str, Any], DescribedBy(Train)]
    """The training of the dense network."""
    retrain_epochs: int
    prune_ratios: list[float]
    """The fractions that the paper removes, of all parameters or of the weights that can be pruned.
    """
    sparsities: list[float]
    """The same as fractions of the weights that can be pruned: the targets of the job."""
    criteria: list[Method]
    """The criteria that the preset fills in; empty where the job chooses."""


class PresetList(BaseModel):
    """All presets; `docs/papers.md` lists what is not as in the papers."""

    items: list[PresetEntry]


@router.get("", operation_id="list_presets", summary="The presets", responses=describe_problems())
def list_presets(caller: Reader) -> PresetList:
    """List the presets: the experiments of papers, with their networks, trainings and targets."""
    return PresetList(
        items=[
            PresetEntry(
                name=name,
                paper=preset.paper,
                runs=preset.runs,
                architecture=preset.architecture,
                kwargs={**preset.kwargs},
                train=preset.training(preset.epochs, 1.0),
                retrain_epochs=preset.retrain_epochs or preset.epochs,
                prune_ratios=[round(ratio / 100, 8) for ratio in preset.prune_ratios],
                sparsities=preset.sparsities,
                criteria=[Method.model_validate(criterion) for criterion in preset.criteria],
            )
            for name, preset in PRESETS.items()
        ]
    )
