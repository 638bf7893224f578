"""What is lost in pruning beyond test accuracy? One job over HTTP runs the study of Lost in Pruning
on a ResNet-20.

`python examples/lost_in_pruning.py --model STATE.safetensors --images IMAGES.zip` starts the
service, uploads a CIFAR ResNet-20 and a zip of images, and prunes it in a cascade with the paper's
four methods (WT, FT, SiPP, PFP) at eight of its prune ratios, retrained after each. Each layer
loses filters by itself, as in the paper: the shortcuts of this network hold most of its channels.
The report has the error under 19 corruptions and noise, prune potentials, delta excess error and
its line, and what was seen of each of the paper's findings. `--url` takes a running service
instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from examples.compare_criteria import NORMALIZE
from examples.embedded import service
from examples.jobs import run
from secateur import Client

METHODS: tuple[dict[str, Any], ...] = (
    {"name": "magnitude"},
    {"name": "filter_norm", "params": {"coupling": "layer"}},
    {"name": "sipp"},
    {"name": "pfp", "params": {"coupling": "layer"}},
)
PRUNE_RATIOS = (15, 29.2, 46.2, 59.1, 68.9, 78.4, 85, 93.8)
"""The fractions of all parameters that are removed, in per cent."""
PARAMETERS, PRUNABLE = 269_722, 268_336
"""The numbers of parameters of the network, and of weights that may be pruned."""
SHOWN = ("robustness", "prune_potential", "noise_similarity")
"""The sections of the report whose notes are printed."""


def main() -> int:
    """Run the job and print its findings; 1 when it fails."""
    arguments = parse_arguments()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    running = contextlib.nullcontext(arguments.url) if arguments.url else service(out / "service")
    with running as url, Client(url) as client:
        model = client.models.upload(
            arguments.model, "cifar_resnet", kwargs={"depth": 20}, normalize=NORMALIZE
        )
        dataset = client.datasets.upload(arguments.images, name=arguments.images.stem)
        job = run(client, describe_job(model.id, dataset.id, arguments), out)
    if job.status != "succeeded":
        return 1
    report = json.loads((out / "report.json").read_text())
    print(report["recommendation"]["reason"])
    for name in SHOWN:
        section = report["sections"][name]
        print(f"\n{section['title']}", *section["notes"], sep="\n- ")
    print(f"\nreport  {out / 'report.html'}")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="state dict of a CIFAR ResNet-20")
    parser.add_argument(
        "--images", type=Path, required=True, help="zip of images in ImageFolder layout"
    )
    parser.add_argument(
        "--train", type=int, default=10_000, help="training images, balanced over the classes"
    )
    parser.add_argument("--test", type=int, help="test images; all of them by default")
    parser.add_argument("--shifted", type=int, default=500, help="test images under each shift")
    parser.add_argument("--epochs", type=int, default=1, help="of each retraining")
    parser.add_argument(
        "--out", type=Path, default=Path("lost-in-pruning"), help="where the report goes"
    )
    parser.add_argument("--url", help="a running service; without it one is started")
    return parser.parse_args()


def describe_job(model_id: str, dataset_id: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The job: four methods in a cascade, retrained after each ratio, studied under shift."""
    shifted = {"images": arguments.shifted, "noise_unit": "paper"}
    similarity = {"images": min(200, arguments.shifted), "noise_unit": "paper"}
    sparsities = [round(ratio / 100 * PARAMETERS / PRUNABLE, 6) for ratio in PRUNE_RATIOS]
    return {
        "type": "prune",
        "model": {"id": model_id},
        "dataset": {
            "id": dataset_id,
            "limit": {"train": arguments.train, "test": arguments.test},
        },
        "criterion": METHODS,
        "targets": {"sparsity": sparsities},
        "retrain": {
            "mode": "fine_tune",
            "epochs": arguments.epochs,
            "optimizer": {"lr": 0.01},
        },
        "evaluations": [
            {"name": "accuracy"},
            {"name": "robustness", "params": shifted},
            {"name": "prune_potential", "params": shifted},
            {"name": "noise_similarity", "params": similarity},
        ],
        "shifts": {"knowledge": "partly_modelled"},
    }


if __name__ == "__main__":
    sys.exit(main())
