"""Does one law fit a family of pruned networks, and does a VGG family obey one as ResNets do? One
family job for each.

`python examples/scaling_families.py --mnist FOLDER` (or `--images IMAGES.zip`) starts the service
with several workers, uploads the images, and submits a family of CIFAR ResNets and one of VGGs:
every depth with every width and fraction of the images, pruned by iterative magnitude pruning with
weight rewinding. It prints, beside each other, the exponents of the invariant depth^phi width^psi
density, how far the points are from one law, how well the law of one half of the networks predicts
the other half, and the network with the fewest parameters at a tolerated error, predicted and
measured. `--url` takes a running service.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from examples.embedded import service
from examples.ladder_data import pack_mnist, thin
from secateur import Client

FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": {
        "architecture": "cifar_resnet",
        "kwargs": {"shortcut": "B"},
        "depths": [8, 14, 20],
        "widths": [0.125, 0.25, 0.5],
    },
    "vgg": {
        "architecture": "vgg",
        "kwargs": {},
        "depths": [11, 13, 16],
        "widths": [0.03125, 0.0625, 0.125],
    },
}


def main() -> int:
    """Run the families and print what was found; 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images", type=Path, help="zip of images of 32 pixels and more, a folder a class"
    )
    source.add_argument(
        "--mnist",
        type=Path,
        help="folder with the four files of MNIST; the digits are padded to 32 pixels",
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--train", type=int, default=4000, help="training images")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument(
        "--fractions", nargs="+", type=float, default=[1.0], help="of the training images"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--keep", type=float, default=0.6, help="of the weights, each round; the paper keeps 0.8"
    )
    parser.add_argument("--floor", type=float, default=0.01, help="density to prune to")
    parser.add_argument(
        "--max-error",
        nargs="*",
        type=float,
        default=[],
        help="tolerated errors; default: from the members",
    )
    parser.add_argument("--workers", type=int, default=2, help="members at a time")
    parser.add_argument(
        "--depths", type=int, choices=(2, 3), default=3, help="how many depths of each family"
    )
    parser.add_argument(
        "--wider", type=float, default=1.0, help="factor on all widths; 2 or more for CIFAR-10"
    )
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument(
        "--out", type=Path, default=Path("scaling-families"), help="where the reports go"
    )
    parser.add_argument("--url", help="a running service; without it one is started")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    running = (
        contextlib.nullcontext(arguments.url)
        if arguments.url
        else service(out / "service", arguments.workers)
    )
    with running as url, Client(url) as client:
        counts = {"train": arguments.train, "test": arguments.test}
        images = (
            thin(arguments.images, out / "images.zip", counts)
            if arguments.images is not None
            else pack_mnist(arguments.mnist, out / "mnist.safetensors", counts, padding=2)
        )
        dataset = client.datasets.upload(images, name=(arguments.images or arguments.mnist).stem)
        jobs = {
            name: client.jobs.submit(spec(name, dataset.id, arguments))
            for name in arguments.families
        }
        for name, job in jobs.items():
            print(f"{name}: submitted {job.id}", flush=True)
        rows = [show(client, name, job.id, out / name) for name, job in jobs.items()]
    print("\n" + table(rows))
    return 0


def spec(name: str, dataset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The family job."""
    family = FAMILIES[name]
    return {
        "type": "family",
        "dataset": {"id": dataset},
        "labels": {"study": "families", "family": name},
        "model": {
            "architecture": family["architecture"],
            "kwargs": family["kwargs"],
            "train": {
                "epochs": arguments.epochs,
                "batch_size": 32,
                "optimizer": {"lr": arguments.lr, "weight_decay": 5e-4},
                "rewind_epoch": max(1, arguments.epochs // 8),
            },
        },
        "members": {
            "depths": family["depths"][: arguments.depths],
            "widths": [arguments.wider * width for width in family["widths"]],
            "fractions": arguments.fractions,
            "seeds": arguments.seeds,
        },
        "keep": arguments.keep,
        "floor_density": arguments.floor,
        "max_error": arguments.max_error,
    }


def show(client: Client, name: str, job_id: str, out: Path) -> dict[str, Any]:
    """Wait for a family, save its reports and return its row of the table."""
    job = client.jobs.wait(job_id)
    out.mkdir(parents=True, exist_ok=True)
    for format in ("html", "md", "json"):
        (out / f"report.{format}").write_bytes(client.jobs.report(job.id, format=format))
    report = json.loads((out / "report.json").read_text())
    for section in report["sections"].values():
        print(f"\n{name}, {section['title']}", *section["notes"], sep="\n- ", flush=True)
    law, answer = report["sections"]["scaling_law"]["scalars"], report["answers"][0]
    half = report["sections"]["invariant"]["scalars"].get("missed error of the other half")

    def number(key: str, form: str) -> str:
        return format_of(
            next((estimate for known, estimate in law.items() if known.startswith(key)), None), form
        )

    return {
        "family": name,
        "members": str(len(report["members"])),
        "phi": number("phi", ".2f"),
        "psi": number("psi", ".2f"),
        "gamma": number("gamma", ".2f"),
        "sigma": number("missed error, standard", ".1%"),
        "other half missed by": format_of(half, ".1%"),
        "answer": described(answer),
        "predicted": format_of(answer["predicted"], ".2%"),
        "measured": format_of(answer["measured"], ".2%"),
    }


def described(answer: dict[str, Any]) -> str:
    """The network that the law chose."""
    if answer["depth"] is None:
        return str(answer["refused"])
    return (
        f"depth {answer['depth']:g}, width {answer['width']:g}, density {answer['density']:.3g}, "
        f"{answer['parameters']:.0f} parameters"
    )


def format_of(estimate: dict[str, Any] | None, form: str) -> str:
    """An estimate with its interval, or a dash."""
    if estimate is None:
        return "–"
    interval = (
        "" if estimate["low"] is None else f" [{estimate['low']:{form}}, {estimate['high']:{form}}]"
    )
    return f"{estimate['value']:{form}}{interval}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, one family a column."""
    width = max(len(name) for name in rows[0])
    columns = [max(len(row[name]) for name in row) for row in rows]
    lines = [
        [
            name.ljust(width),
            *(row[name].ljust(wide) for row, wide in zip(rows, columns, strict=True)),
        ]
        for name in rows[0]
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
