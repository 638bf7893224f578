"""Are approximation bounds tighter on networks known to be sparse? Three kinds of network, from
sparse to not, one job each.

`python examples/difficulty_ladder.py --data FOLDER` starts the service and studies a LeNet-300-100
on MNIST (`FOLDER/mnist/*.gz`) and a CIFAR ResNet on JPEG images (`FOLDER/cifar10-jpeg.zip`,
ImageFolder layout):

1. planted: a network pruned to 95 % and retrained, its zeros replaced by tiny noise, so that there
   is a sparse network close by and a method has to find it;
2. trained with an L1 penalty, in one or more strengths (exact zeros, but where nobody planted
   them);
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
from examples.ladder_table import Row, list_rows, render_markdown
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


@dataclass(frozen=True, kw_only=True)
class Study:
    """A network on a dataset, and how it is trained."""

    title: str
    architecture: str
    kwargs: dict[str, Any]
    train: dict[str, Any]
    l1: tuple[float, ...]
    """Strengths of the penalty."""
    limit: dict[str, int]
    """Images of each split; a split that is not named has all of them."""
    bounds: dict[str, Any]
    """Parameters of the evaluation `bounds`."""


def plan_studies(arguments: argparse.Namespace) -> dict[str, Study]:
    """Plan the study of each dataset, by the dataset's name."""
    quick = arguments.quick
    bounds: dict[str, Any] = {"methods": METHODS, "trials": 1 if quick else 3}
    if quick:
        bounds |= {"images": 20, "sparsities": sorted({0.01, 0.1, *arguments.sparsity})}
    return {
        "mnist": Study(
            title="LeNet-300-100 on MNIST",
            architecture="lenet_300_100",
            kwargs={},
            train={"epochs": arguments.epochs or (4 if quick else 20), "optimizer": {"lr": 0.05}},
            l1=(1e-4, 1e-3),
            limit=limit_images(arguments, 10_000),
            bounds=bounds,
        ),
        "cifar": Study(
            title=f"ResNet-{arguments.depth} on CIFAR-10 (JPEG)",
            architecture="cifar_resnet",
            kwargs={"depth": arguments.depth},
            train={
                "epochs": arguments.epochs or (6 if quick else 40),
                "batch_size": 64 if quick else 128,
            },
            l1=(1e-4, 1e-3),
            limit=limit_images(arguments, 4_000),
            bounds=bounds,
        ),
    }


def limit_images(arguments: argparse.Namespace, quick: int) -> dict[str, int]:
    """Return the images of each split, `quick` training images for a quick study; `{}` is all."""
    limit: dict[str, int] = {}
    train = arguments.images or (quick if arguments.quick else None)
    if train:
        limit["train"] = train
    if arguments.quick:
        limit["test"] = 1000
    return limit


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
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
    return parser.parse_args()


def main() -> int:
    """Run the jobs and write the table; 1 when a rung failed."""
    arguments = parse_arguments()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    running = contextlib.nullcontext(arguments.url) if arguments.url else service(out / "service")
    texts: list[str] = []
    failed = False
    with running as url, Client(url) as client:
        for name, study in plan_studies(arguments).items():
            if name in arguments.networks:
                print(f"{study.title}: uploading", flush=True)
                dataset_id = upload_dataset(client, name, arguments.data, out, study.limit)
                ladder = Ladder(client, study, arguments, out / name, dataset_id)
                texts.append(ladder.climb())
                failed |= ladder.failed
                (out / "ladder.md").write_text("\n".join(texts))
    print("\n".join(["", *texts, f"table  {out / 'ladder.md'}"]))
    return int(failed)


def upload_dataset(client: Client, name: str, data: Path, out: Path, images: dict[str, int]) -> str:
    """Upload a dataset, of a zip at most `images` of each split; return the id of the dataset."""
    if name == "mnist":
        path = ladder_data.pack_mnist(data / "mnist", out / "mnist.safetensors")
    else:  # every job decodes all images of a zip: leave out what is not needed
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
        self.client = client
        self.study = study
        self.arguments = arguments
        self.out = out
        self.common = {
            "type": "prune",
            "dataset": {"id": dataset_id, "limit": study.limit},
            "seed": arguments.seed,
        }
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.failed = False

    def climb(self) -> str:
        """Study every rung, the sparsest first; return the Markdown."""
        strengths = sorted(self.arguments.l1 or self.study.l1, reverse=True)
        rungs = ["planted", *(f"L1 {strength:g}" for strength in strengths), "no penalty"]
        self._study_rung(rungs[0], None)
        for rung, strength in zip(rungs[1:], [*strengths, 0.0], strict=True):
            penalty = {"penalty": {"l1": strength}} if strength else {}
            self._study_rung(rung, self._describe_training(penalty))
        notes = "\n".join(self.notes)
        return f"# {self.study.title}\n\n{notes}\n\n{render_markdown(self.rows, rungs)}"

    def _describe_training(self, extra: dict[str, Any]) -> dict[str, Any]:
        """The model of a job that trains the network itself."""
        study = self.study
        return {
            "architecture": study.architecture,
            "kwargs": study.kwargs,
            "train": study.train | extra,
        }

    def _study_rung(self, rung: str, model: dict[str, Any] | None) -> None:
        """Study a network; without `model` the planted one. A rung that fails is noted and left
        out.
        """
        folder = self.out / rung.replace(" ", "-")
        print(f"{self.study.title}, {rung}", flush=True)
        try:
            spec = self._describe_job(rung, model or self._plant(folder))
            job = jobs.run(self.client, spec, folder)
        except JobFailed as error:
            self.failed = True
            self.notes.append(f"- {rung}: failed: {error}")
            return
        report = self.client.jobs.results(job.id).parsed_report()
        if rung == "planted":
            zeros = (
                f"{percent(PLANTED)} of the weights are noise, {self.arguments.noise:g} "
                "standard deviations of their layer"
            )
        else:
            zeros = f"{percent(report.baseline.sparsity)} of the weights are zero"
        self.notes.append(
            f"- {rung}: test error {percent(report.baseline.error.value)}, {zeros}; report "
            f"`{(folder / 'report.html').relative_to(self.out.parent)}`"
        )
        self.notes += [
            f"- {rung}: {failure.name} failed: {failure.message}" for failure in report.failures
        ]
        section = report.sections.get("bounds")
        if section is not None:
            self.notes += [f"- {rung}: {note}" for note in section.notes if "no bounds" in note]
            self.rows += list_rows(rung, section)

    def _describe_job(self, rung: str, model: dict[str, Any]) -> dict[str, Any]:
        """The job of a rung: every method in one shot, without retraining."""
        return self.common | {
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
        }

    def _plant(self, folder: Path) -> dict[str, Any]:
        """Prune by magnitude, retrain, hide the zeros in noise, upload: the model of a job."""
        job = jobs.run(
            self.client,
            self.common
            | {
                "model": self._describe_training({}),
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
        pruned = results.parsed_report().model
        planted = self.client.models.upload(
            folder / "planted.safetensors",
            pruned.architecture,
            kwargs=pruned.kwargs,
            normalize=pruned.normalize,
            name="planted",
        )
        return {"id": planted.id}


def hide_zeros(state: dict[str, Tensor], noise: float, seed: int) -> dict[str, Tensor]:
    """Replace the zeros of matrices and filters by normal noise of `noise` times their layer's
    standard deviation; return the new state.

    >>> hidden = hide_zeros(
    ...     {"w": torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), "b": torch.zeros(2)}, 1e-3, 0
    ... )
    >>> (
    ...     bool((hidden["w"].diag() != 0).all()),
    ...     float(hidden["w"].diag().abs().max()) < 0.01,
    ...     hidden["b"].tolist(),
    ... )
    (True, True, [0.0, 0.0])
    """
    hidden = {}
    for name, value in state.items():
        if value.dim() > 1:
            normal = torch.randn(value.shape, generator=generator(seed, "planted", name))
            value = torch.where(value == 0, normal * noise * value.float().std(), value)
        hidden[name] = value
    return hidden


if __name__ == "__main__":
    sys.exit(main())
