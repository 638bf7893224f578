"""Stages and a penalty on the step, which keep a local model of the loss near the point where it
holds.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020, and the code
released with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pruning.evidence.curvature import Curvature, choose_curvature
from pruning.evidence.evidence import Evidence
from pruning.evidence.hessian import WEIGHTS
from pruning.schedules import Steps, space_densities
from pruning.types import Calibration, Masks, Scores

FORWARD_AND_BACKWARD = 3
"""The work of a forward and a backward pass, in forward passes."""


@dataclass(frozen=True)
class Staging:
    """The stages of a criterion that models the loss around the current point, and its images.

    >>> [round(density, 3) for density in Staging(pi=3).stage_densities(1.0, 0.125)]
    [0.5, 0.25, 0.125]
    >>> Staging(pi=2, stages="linear").stage_densities(1.0, 0.5)
    [0.75, 0.5]
    """

    pi: Annotated[
        int, Field(ge=1, le=10_000, description="stages of one round; nothing is retrained between")
    ] = 14
    stages: Steps = "exponential"
    images: Annotated[
        int, Field(ge=1, le=1_000_000, description="training images for every stage")
    ] = 1000

    def stage_densities(self, start: float, target: float) -> Sequence[float]:
        """Return d_i = start (target / start)^(i / pi), or linear in i, i = 1 ... pi.

        The last is exactly the target.
        """
        return space_densities(start, target, self.pi, self.stages)

    def calibration(self, classes: int) -> Calibration:
        """Ask for `images` training images at random."""
        return Calibration(self.images)


@dataclass(frozen=True)
class Locality(Staging):
    """Stages, and a penalty on the step."""

    lambda_: Annotated[
        float,
        Field(
            alias="lambda",
            ge=0,
            le=1e15,
            allow_inf_nan=False,
            description="weight of the penalty lambda / 2 theta^2",
        ),
    ] = 1e-3

    def units(self, classes: int) -> int:
        """Count one forward and backward pass."""
        return FORWARD_AND_BACKWARD * self.images

    def penalty(self, weight: Tensor) -> Tensor:
        """Compute lambda / 2 theta^2."""
        return self.lambda_ / 2 * weight.square()


@dataclass(frozen=True)
class CurvedLocality(Locality):
    """Stages and penalty, for a model of second order."""

    curvature: Annotated[
        Curvature | None,
        Field(
            description="diagonal of the curvature; null: ggn (exact) up to 20 classes, mc_fisher "
            "(sampled) above; hessian (exact, small networks) and hutchinson (sampled) are of the "
            "loss itself"
        ),
    ] = None
    samples: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="labels drawn for each image by mc_fisher, random vectors by hutchinson",
        ),
    ] = 1

    def units(self, classes: int) -> int:
        """Count one gradient, and C + 1 more for the exact curvature (`ggn`), else 2 + samples.

        Each is a forward and a backward pass over all images. A product with the Hessian takes as
        long as two; `hessian` takes one for each weight, here as many as there may be at most.
        """
        kind = self.curvature or choose_curvature(classes)
        passes = {
            "ggn": classes + 2,
            "mc_fisher": 3 + self.samples,
            "empirical_fisher": 4,
            "hessian": 2 + 2 * WEIGHTS,
            "hutchinson": 2 + 2 * self.samples,
        }
        return FORWARD_AND_BACKWARD * self.images * passes[kind]

    def quadratic(self, evidence: Evidence) -> Scores:
        """Compute D theta^2 / 2 by name, shape of the weight."""
        curvature = evidence.curvature(self.curvature, self.samples)
        return {
            name: curvature[name] * weight.square() / 2 for name, weight in evidence.weights.items()
        }


def predict_linear(evidence: Evidence) -> Scores:
    """Predict -g theta by name: how removing each weight alone moves the loss to first order."""
    return {name: -evidence.gradient[name] * weight for name, weight in evidence.weights.items()}


def sum_removed(changes: Scores, evidence: Evidence, masks: Masks) -> float:
    """Sum the changes over the weights that `masks` prune and the evidence holds."""
    return sum(
        float(change[evidence.masks[name] & ~masks[name]].double().sum())
        for name, change in changes.items()
    )
