"""The inputs of a job whose network starts from a backbone."""

from __future__ import annotations

from typing import Any

from tasks.store.tables import Model
from tasks.workspace import _describe_model, _name_second


def test_a_backbone_is_a_file_of_its_own_and_brings_its_normalisation() -> None:
    normalize = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
    uploaded = Model(architecture="torchvision", normalize=normalize, source="given")
    reference: dict[str, Any] = {
        "architecture": "torchvision_segmentation",
        "backbone": "mdl_00000000",
    }
    described = _describe_model(reference, None, uploaded)
    assert (described["architecture"], described["normalize"], described["source"]) == (
        "torchvision_segmentation",
        normalize,
        "given",
    )
    assert _name_second({"model": reference}) == "backbone"
    del reference["backbone"]
    assert _describe_model(reference, None, None)["normalize"] is None
    assert _name_second({"model": reference}) == "rewind"
