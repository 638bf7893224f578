"""What is lost in pruning beyond test accuracy? One job over HTTP runs the study of Lost in Pruning
on a ResNet-20.

`python examples/lost_in_pruning.py --model STATE.safetensors --images IMAGES.zip` starts the
service, uploads a CIFAR ResNet-20 and a zip of images, and prunes it in a cascade with the paper's
four methods (WT, FT, SiPP, PFP) at eight of its prune ratios, retrained after each. Filters are set
to zero, as in the paper, and not removed: the shortcuts of this network hold most of its channels;
the first layer, whose inputs are colours, and the classifier, whose outputs are classes, stay
whole. The report has the error under 19 corruptions and noise, prune potentials, delta excess error
and its line, and what was seen of each of the paper's findings. `--url` takes a running service
instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from examples.compare_criteria import NORMALIZE
from examples.embedded import service
from examples.jobs import run
from secateur import Client

METHODS = ("magnitude", "filter_norm", "sipp", "pfp")
PRUNE_RATIOS = (15, 29.2, 46.2, 59.1, 68.9, 78.4, 85, 93.8)
"""Per cent of all parameters."""
WHOLE = ("conv1.weight", "linear.weight")
PARAMETERS, PRUNABLE = 269_722, 267_264
"""Of the network; the prunable weights are those of the other layers."""
SHOWN = ("robustness", "prune_potential", "noise_similarity")


def main() -> int:
    """Run the job and print what was found; 1 when it fails."""
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
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    running = contextlib.nullcontext(arguments.url) if arguments.url else service(out / "service")
    looked_at = {"images": arguments.shifted}
    with running as url, Client(url) as client:
        model = client.models.upload(
            arguments.model, "cifar_resnet", kwargs={"depth": 20}, normalize=NORMALIZE
        )
        dataset = client.datasets.upload(arguments.images, name=arguments.images.stem)
        job = run(
            client,
            {
                "type": "prune",
                "model": {"id": model.id},
                "dataset": {
                    "id": dataset.id,
                    "limit": {"train": arguments.train, "test": arguments.test},
                },
                "criterion": [{"name": name} for name in METHODS],
                "granularity": {"name": "weight"},
                "exclude": WHOLE,
                "targets": {
                    "sparsity": [
                        round(ratio / 100 * PARAMETERS / PRUNABLE, 6) for ratio in PRUNE_RATIOS
                    ]
                },
                "retrain": {
                    "mode": "fine_tune",
                    "epochs": arguments.epochs,
                    "optimizer": {"lr": 0.01},
                },
                "evaluations": [
                    {"name": "accuracy"},
                    {"name": "robustness", "params": looked_at},
                    {"name": "prune_potential", "params": looked_at},
                    {"name": "noise_similarity", "params": {"images": min(200, arguments.shifted)}},
                ],
                "shifts": {"knowledge": "partly_modelled"},
            },
            out,
        )
    if job.status != "succeeded":
        return 1
    report = json.loads((out / "report.json").read_text())
    print(report["recommendation"]["reason"])
    for name in SHOWN:
        print(
            f"\n{report['sections'][name]['title']}", *report["sections"][name]["notes"], sep="\n- "
        )
    print(f"\nreport  {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
