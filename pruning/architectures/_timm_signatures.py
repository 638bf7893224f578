"""Which networks of timm a state dict may be of, read off a table that is made beforehand.

The table has two digests of the names and shapes of each network of timm: `exact` of all but its
classifier, and `any_size` without what depends on the size of images as well. Building the networks
to compare them takes minutes; `python -m pruning.architectures._timm_signatures` writes the table
for the release of timm that is installed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import torch

from pruning.architectures._extras import import_extra
from pruning.architectures._shapes import Shapes

TABLE = Path(__file__).with_name("_timm_signatures.json")
CLASSIFIERS = (
    "classif",
    "classifier",
    "fc",
    "head",
    "head_dist",
    "heads",
    "heads_dist",
    "last_linear",
)
"""The names of the modules that classify, of all networks of timm."""
SIZED = ("pos_embed", "relative_position", "attention_bias", "rel_pos", "rel_h", "rel_w")
"""Parts of the names of tensors whose shape depends on the size of images."""
MOST = 12
"""The most networks that are suggested for one state dict."""


def list_networks(shapes: Shapes) -> list[str]:
    """The names of the networks of timm whose names and shapes these are, but for the classifier
    and for what depends on the size of images.
    """
    exact, any_size = describe_signatures(shapes)
    rows = _read_table()
    names = [name for name, row in rows.items() if row[0] == exact]
    names = names or [name for name, row in rows.items() if row[1] == any_size]
    return names[:MOST]


def describe_signatures(shapes: Shapes) -> tuple[str, str]:
    """The digests of names and shapes: of all but the classifier, and of what has one shape for
    images of any size.
    """
    rows = [
        f"{name} {list(shape)}"
        for name, shape in sorted(shapes.items())
        if not name.endswith("num_batches_tracked") and not _is_classifier(name)
    ]
    unsized = [row for row in rows if not any(part in row for part in SIZED)]
    return _digest(rows), _digest(unsized)


def _is_classifier(name: str) -> bool:
    """Whether a tensor is the weight or bias of what may be a classifier.

    >>> _is_classifier("head.fc.weight"), _is_classifier("blocks.0.mlp.fc1.weight")
    (True, False)
    """
    parts = name.split(".")
    return parts[0] in CLASSIFIERS and parts[-1] in ("weight", "bias")


def _digest(rows: list[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]


@cache
def _read_table() -> dict[str, tuple[str, str]]:
    """The digests by name, `exact` first."""
    document = json.loads(TABLE.read_text())
    return {name: (row[:8], row[8:]) for name, row in document["networks"].items()}


def write_table() -> None:
    """Build every network of timm without data, and write the table."""
    timm = import_extra("timm")
    networks = {}
    for name in timm.list_models():
        with torch.device("meta"):
            state = timm.create_model(name, pretrained=False).state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        networks[name] = "".join(describe_signatures(shapes))
    TABLE.write_text(json.dumps({"timm": timm.__version__, "networks": networks}, indent=0) + "\n")


if __name__ == "__main__":
    write_table()
