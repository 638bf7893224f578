"""Are approximation bounds tighter on networks known to be sparse? Three kinds of network, from
sparse to not, one job each.

`python examples/difficulty_ladder.py --data FOLDER` starts the service and studies a LeNet-300-100
on MNIST (`FOLDER/mnist/*.gz`) and a CIFAR ResNet on JPEG images (`FOLDER/cifar10-jpeg.zip`,
ImageFolder layout):

1. planted: a network pruned to 95 % and retrained, its zeros replaced by tiny noise, so that there is a sparse network
   close by and a method has to find it;
2. trained with an L1 penalty, in one or more strengths (exact zeros, but where nobody planted them);
3. trained without.

Every network is pruned in one shot by every method, and the evaluation `bounds` compares the errors
that the methods' bounds promise with those measured. The table goes to `ladder.md` in the folder
`--out`. `--quick` shows what the study does, in minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples import jobs, ladder_data
from examples.embedded import service
from examples.ladder_table import Row, markdown, rows
from pruning.seeding import generator
from pruning.wording import percent
from secateur import Client, JobFailed

PLANTED = 0.95
METHODS: tuple[dict[str, Any], ...] = (
    {"name": "sipp"},
    {"name": "sipp", "params": {"variant": "randomized"}},
    {"name": "pfp"},
    {"name": "mussay"},
    {"name": "corenet"},
)


@dataclass(frozen=True)
class Study:
    """A network on a dataset, and how it is trained."""

    title: str
    architecture: str
    kwargs: dict[str, Any]
    train: dict[str, Any]
    l1: tuple[float, ...]
    limit: dict[str, int]
    bounds: dict[str, Any]


def studies(arguments: argparse.Namespace) -> dict[str, Study]:
    """By name of the dataset."""
    quick = arguments.quick
    bounds = {"methods": METHODS, "trials": 1 if quick else 3}
    if quick:
        bounds |= {"images": 20, "sparsities": sorted({0.01, 0.1, *arguments.sparsity})}
    return {
        "mnist": Study(
            "LeNet-300-100 on MNIST",
            "lenet_300_100",
            {},
            {"epochs": arguments.epochs or (4 if quick else 20), "optimizer": {"lr": 0.05}},
            (1e-4, 1e-3),
            limit(arguments, 10_000),
            bounds,
        ),
        "cifar": Study(
            f"ResNet-{arguments.depth} on CIFAR-10 (JPEG)",
            "cifar_resnet",
            {"depth": arguments.depth},
            {
                "epochs": arguments.epochs or (6 if quick else 40),
                "batch_size": 64 if quick else 128,
            },
            (1e-4, 1e-3),
            limit(arguments, 4_000),
            bounds,
        ),
    }


def limit(arguments: argparse.Namespace, quick: int) -> dict[str, int]:
    """Images of each split; `{}` takes all."""
    images = arguments.images or (quick if arguments.quick else None)
    return ({"train": images} if images else {}) | ({"test": 1000} if arguments.quick else {})


def main() -> int:
    """Run the jobs and write the table; 1 when a rung failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with mnist/*.gz and cifar10-jpeg.zip"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=("mnist", "cifar"), default=["mnist", "cifar"]
    )
    parser.add_argument("--depth", type=int, default=8, help="of the ResNet")
    parser.add_argument("--epochs", type=int, help="of every training")
    parser.add_argument("--images", type=int, help="training images, balanced over the classes")
    parser.add_argument(
        "--l1",
        type=float,
        nargs="+",
        help="strengths of the penalty, instead of those of each network",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=1e-3,
        help="of planted zeros, in standard deviations of the layer",
    )
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.8, 0.95])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few images and epochs")
    parser.add_argument(
        "--out", type=Path, default=Path("ladder"), help="where table and reports go"
    )
    parser.add_argument("--url", help="a running service; without it one is started")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    running = contextlib.nullcontext(arguments.url) if arguments.url else service(out / "service")
    texts, failed = [], False
    with running as url, Client(url) as client:
        for name, study in studies(arguments).items():
            if name in arguments.networks:
                print(f"{study.title}: uploading", flush=True)
                uploaded = dataset(client, name, arguments.data, out, study.limit)
                ladder = Ladder(client, study, arguments, out / name, uploaded)
                texts.append(ladder.climb())
                failed |= ladder.failed
                (out / "ladder.md").write_text("\n".join(texts))
    print("\n".join(["", *texts, f"table  {out / 'ladder.md'}"]))
    return int(failed)


def dataset(client: Client, name: str, data: Path, out: Path, images: dict[str, int]) -> str:
    """Upload at most so many images of each split; the id of the dataset."""
    if name == "mnist":
        path = ladder_data.pack_mnist(data / "mnist", out / "mnist.safetensors")
    else:  # every job decodes all images of a zip
        path = ladder_data.thin(data / "cifar10-jpeg.zip", out / "cifar.zip", images)
    return client.datasets.upload(path, name=name).id


class Ladder:
    """The jobs of one network and what came of them."""

    def __init__(
        self,
        client: Client,
        study: Study,
        arguments: argparse.Namespace,
        out: Path,
        dataset_id: str,
    ) -> None:
        self.client, self.study, self.arguments, self.out = client, study, arguments, out
        self.common = {
            "type": "prune",
            "dataset": {"id": dataset_id, "limit": study.limit},
            "seed": arguments.seed,
        }
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.failed = False

    def climb(self) -> str:
        """Every rung, sparsest first; returns the Markdown."""
        strengths = sorted(self.arguments.l1 or self.study.l1, reverse=True)
        rungs = ["planted", *(f"L1 {strength:g}" for strength in strengths), "no penalty"]
        self._rung(rungs[0], None)
        for rung, strength in zip(rungs[1:], [*strengths, 0.0], strict=True):
            self._rung(rung, self._trained({"penalty": {"l1": strength}} if strength else {}))
        return (
            f"# {self.study.title}\n\n"
            + "\n".join(self.notes)
            + "\n\n"
            + markdown(self.rows, rungs)
        )

    def _trained(self, extra: dict[str, Any]) -> dict[str, Any]:
        study = self.study
        return {
            "architecture": study.architecture,
            "kwargs": study.kwargs,
            "train": study.train | extra,
        }

    def _rung(self, rung: str, model: dict[str, Any] | None) -> None:
        """Study a network; without `model` the planted one. A rung that fails is said and left
        out.
        """
        folder = self.out / rung.replace(" ", "-")
        print(f"{self.study.title}, {rung}", flush=True)
        try:
            model = model or self._plant(folder)
            job = jobs.run(
                self.client,
                self.common
                | {
                    "model": model,
                    "criterion": METHODS,
                    "targets": {"sparsity": self.arguments.sparsity},
                    "independent": True,
                    "retrain": {"mode": "none"},
                    "batchnorm": "keep",
                    "labels": {"ladder": rung},
                    "evaluations": [
                        {"name": "accuracy"},
                        {"name": "approximation"},
                        {"name": "bounds", "params": self.study.bounds},
                    ],
                },
                folder,
            )
        except JobFailed as error:
            self.failed = True
            self.notes.append(f"- {rung}: failed: {error}")
            return
        report = self.client.jobs.results(job.id).parsed_report()
        zero = (
            f"{percent(report.baseline.sparsity)} of the weights are zero"
            if rung != "planted"
            else f"{percent(PLANTED)} of the weights are noise, {self.arguments.noise:g} "
            "standard deviations of their layer"
        )
        self.notes.append(
            f"- {rung}: test error {percent(report.baseline.error.value)}, {zero}; report "
            f"`{(folder / 'report.html').relative_to(self.out.parent)}`"
        )
        self.notes += [
            f"- {rung}: {failure.name} failed: {failure.message}" for failure in report.failures
        ]
        section = report.sections.get("bounds")
        if section is not None:
            self.notes += [f"- {rung}: {note}" for note in section.notes if "no bounds" in note]
            self.rows += rows(rung, section)

    def _plant(self, folder: Path) -> dict[str, Any]:
        """Prune by magnitude, retrain, hide the zeros in noise, upload: the model of a job."""
        job = jobs.run(
            self.client,
            self.common
            | {
                "model": self._trained({}),
                "targets": {"sparsity": [PLANTED]},
                "retrain": {"mode": "lr_rewind"},
                "evaluations": [{"name": "accuracy"}],
                "labels": {"ladder": "planting"},
            },
            folder / "planting",
        )
        results = self.client.jobs.results(job.id)
        path = folder / "pruned.safetensors"
        self.client.jobs.download(job.id, results.checkpoints[0].id, path, format="dense")
        state = hide_zeros(load_file(path), self.arguments.noise, self.arguments.seed)
        save_file(state, folder / "planted.safetensors")
        made = results.parsed_report().model
        return {
            "id": self.client.models.upload(
                folder / "planted.safetensors",
                made.architecture,
                kwargs=made.kwargs,
                normalize=made.normalize,
                name="planted",
            ).id
        }


def hide_zeros(state: dict[str, Tensor], noise: float, seed: int) -> dict[str, Tensor]:
    """Replace the zeros of matrices and filters by normal noise of `noise` times their layer's
    standard deviation.

    >>> found = hide_zeros(
    ...     {"w": torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), "b": torch.zeros(2)}, 1e-3, 0
    ... )
    >>> (
    ...     bool((found["w"].diag() != 0).all()),
    ...     float(found["w"].diag().abs().max()) < 0.01,
    ...     found["b"].tolist(),
    ... )
    (True, True, [0.0, 0.0])
    """
    found = {}
    for name, value in state.items():
        small = (
            torch.randn(value.shape, generator=generator(seed, "planted", name))
            * noise
            * value.float().std()
            if value.dim() > 1
            else value
        )
        found[name] = torch.where(value == 0, small, value)
    return found


if __name__ == "__main__":
    sys.exit(main())
