"""The model card of a checkpoint: README.md of a Hugging Face folder, with the report's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pruning import wording
from pruning.schemas.recipe import UPLOADED, Method
from pruning.schemas.report import Evaluated
from pruning.types import Task

PIPELINES: dict[Task, str] = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
}
"""The names of the tasks on the Hugging Face hub."""
AUTO_CLASSES: dict[Task, str] = {
    "classification": "AutoModelForImageClassification",
    "segmentation": "AutoModelForSemanticSegmentation",
}
METRICS: dict[Task, tuple[str, str]] = {
    "classification": ("accuracy", "Accuracy"),
    "segmentation": ("mean_iou", "Mean IoU of an image, averaged over images"),
}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The facts that the model card of a checkpoint states."""

    id: str
    job: str
    task: Task
    dataset: str
    test_images: int
    criterion: Method
    sparsity: float
    """The fraction of the prunable weights that are zero."""
    retrain_epochs: int
    pruned: Evaluated
    """The checkpoint as it is shipped."""
    given: Evaluated
    """The network before pruning."""
    control: Evaluated
    """The dense network, retrained as the checkpoint was."""


def write_model_card(facts: CardFacts) -> str:
    """The card as Markdown: metadata in YAML as the hub reads it, then the numbers with their 95 %
    intervals, and the lines that load the network.
    """
    auto_class = AUTO_CLASSES[facts.task]
    rows = [
        ("as given", facts.given),
        ("dense control, retrained alike", facts.control),
        ("**this network**", facts.pruned),
    ]
    table = "\n".join(
        f"| {name} | {wording.percent_with_interval(measured.error, 2)} |"
        for name, measured in rows
    )
    images = wording.count_of(facts.test_images, "test image")
    origin = _tell_origin(facts)
    error = (
        "test error" if facts.task == "classification" else "test error: 1 - mean IoU of an image"
    )
    return f"""{_write_metadata(facts)}
# {facts.id}

{wording.short_percent(facts.sparsity)} of the weights of this network are zero. {origin}

| network | {error} |
|---|---|
{table}

Measured on {images} of `{facts.dataset}` in float32, with 95 % intervals, by the job `{facts.job}`
of Secateur. The weights are stored with their zeros: the
network computes as much as before, and packs smaller.

```python
from transformers import AutoImageProcessor, {auto_class}

model = {auto_class}.from_pretrained("FOLDER").eval()
processor = AutoImageProcessor.from_pretrained("FOLDER")
```
"""


def _tell_origin(facts: CardFacts) -> str:
    """A sentence on how the weights came to be zero."""
    if facts.criterion.name == UPLOADED:
        return "They were when it was\nsent in; it was judged here as it came."
    return (
        f"They were chosen by\nthe criterion `{wording.method_call(facts.criterion)}` and set to "
        f"zero, with {facts.retrain_epochs}\nepochs of retraining."
    )


def _write_metadata(facts: CardFacts) -> str:
    """The metadata of the card, in YAML, of which JSON is a part."""
    metric, title = METRICS[facts.task]
    result = {
        "task": {"type": PIPELINES[facts.task]},
        "dataset": {"name": facts.dataset, "type": facts.dataset},
        "metrics": [{"type": metric, "name": title, "value": 1.0 - facts.pruned.error.value}],
    }
    entries = {
        "library_name": "transformers",
        "pipeline_tag": PIPELINES[facts.task],
        "tags": ["pruned", "sparse", "secateur"],
        "model-index": [{"name": facts.id, "results": [result]}],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in entries.items()]
    return "\n".join(["---", *lines, "---"])
