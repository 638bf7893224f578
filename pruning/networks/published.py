"""The preprocessing of the published weights of a network, which is taken where nobody gave one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning.architectures import architectures
from pruning.networks.loading import resolve
from pruning.schemas.preprocessing import GivenPreprocessing, Source, keep_resizing
from pruning.schemas.published_preprocessing import translate_published
from pruning.types import Architecture

SOURCE: Source = "timm"


def read_published_preprocessing(architecture: Architecture) -> dict[str, Any]:
    """`normalize`, `source` and `preprocessing` of the published weights as the store keeps them;
    empty for an architecture that does not know them.
    """
    document = getattr(architecture, "published_preprocessing", None)
    if document is None:
        return {}
    try:
        given = GivenPreprocessing.model_validate(translate_published(document))
    except ValueError:  # published weights whose preprocessing has no counterpart here
        return {}
    known: dict[str, Any] = {"preprocessing": keep_resizing(given.resizing, SOURCE)}
    if given.constants is not None:
        normalize = {name: list(values) for name, values in given.constants.items()}
        known |= {"normalize": normalize, "source": SOURCE}
    return known


def add_published_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """A network that a job builds and trains, with the sizes that its published weights take.

    Its constants are those of the training images.
    """
    if not hasattr(architectures.get(model["architecture"]), "published_preprocessing"):
        return dict(model)
    architecture = resolve(model["architecture"], model["kwargs"])
    known = read_published_preprocessing(architecture)
    return {**model, "preprocessing": model.get("preprocessing") or known.get("preprocessing")}
