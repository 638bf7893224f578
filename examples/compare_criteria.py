"""Which criterion prunes this network best? One job over HTTP compares twelve of them on equal
terms.

`python examples/compare_criteria.py --model STATE.safetensors --images IMAGES.zip` starts the
service, uploads a CIFAR ResNet-20 and a zip of images, prunes to 80 and 95 %, each criterion from
the given network, measures before and after one epoch of retraining, and writes the report. `--url`
takes a running service instead.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from examples.embedded import service
from examples.jobs import run
from secateur import Client

STAGED = ("lm", "qm", "obd")
"""The loss models, which run in one stage and in fourteen."""
OTHERS = ("magnitude", "obs", "synflow", "snip", "grasp", "random")
NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def main() -> int:
    """Run the job; 1 when it fails."""
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
    print(f"report  {out / 'report.html'}")
    return 0 if job.status == "succeeded" else 1


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
    parser.add_argument(
        "--calibration",
        type=int,
        default=1000,
        help="training images that a loss model sees in a stage",
    )
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.95])
    parser.add_argument(
        "--out", type=Path, default=Path("comparison"), help="where the report goes"
    )
    parser.add_argument("--url", help="a running service; without it one is started")
    return parser.parse_args()


def describe_job(model_id: str, dataset_id: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The job: every criterion from the given network, retrained for one epoch."""
    staged = [
        {"name": name, "params": {"pi": pi, "images": arguments.calibration}}
        for name in STAGED
        for pi in (1, 14)
    ]
    return {
        "type": "prune",
        "model": {"id": model_id},
        "dataset": {"id": dataset_id, "limit": {"train": arguments.train}},
        "criterion": [*staged, *({"name": name} for name in OTHERS)],
        "targets": {"sparsity": arguments.sparsity},
        "independent": True,
        "batchnorm": "keep",
        "retrain": {"mode": "fine_tune", "epochs": 1, "optimizer": {"lr": 0.01}},
    }


if __name__ == "__main__":
    sys.exit(main())
