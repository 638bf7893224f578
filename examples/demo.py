"""The main job end to end, over HTTP, on real images: `make demo`.

Starts the service, trains a small ResNet on scikit-learn's handwritten digits, uploads it, prunes
it to five sparsities, downloads checkpoints and report, and checks that a downloaded checkpoint
gives the error that the report states.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from examples.embedded import service
from examples.jobs import save_reports
from pruning.data.builtin import datasets
from pruning.data.tensors import Data, prepare
from pruning.library import load_model, read_sparse
from pruning.measurement.measure import measure_network
from pruning.schemas.recipe import Limit
from pruning.schemas.report import Estimate, Report
from pruning.schemas.training import LrSchedule, Optimizer, Training
from pruning.training.loop import train_
from secateur import Client

ARCHITECTURE = "cifar_resnet"
KWARGS: dict[str, Any] = {"depth": 14, "width": 1.0, "channels": 1, "classes": 10}
SPARSITIES = [0.5, 0.7, 0.8, 0.9, 0.95]
console = Console()


def main() -> int:
    """Run the demo; 1 when the downloaded checkpoint does not give the reported error."""
    arguments = parse_arguments()
    out = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    console.print("starting the service")
    with service(out / "service") as url, Client(url) as client:
        data = prepare(datasets.create("digits").load(), limit=Limit(), seed=0, normalize=None)
        weights = train(data, arguments.epochs, out / "dense.safetensors")
        model = client.models.upload(
            weights,
            ARCHITECTURE,
            kwargs=KWARGS,
            name="digits ResNet-14",
            normalize={"mean": data.mean, "std": data.std},
        )
        console.print(f"uploaded {weights.name} as {model.id} ({model.parameters:,} parameters)")
        job = client.jobs.submit(describe_job(model.id))
        console.print(f"submitted {job.id}: five sparsities, four epochs of fine-tuning at each")
        watch(url, job.id)
        client.jobs.wait(job.id, timeout_s=600)
        chosen = download(client, job.id, out)
        report = save_reports(client, job.id, out)

    show(report)
    all_agree = check(report, data, chosen, out)
    console.print(f"\nreport       {out / 'report.html'}")
    console.print(f"checkpoints  {out}/*.sparse.safetensors")
    return 0 if all_agree else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="where checkpoints and report go"
    )
    parser.add_argument(
        "--epochs", type=int, default=20, help="epochs of training before the upload"
    )
    return parser.parse_args()


def describe_job(model_id: str) -> dict[str, Any]:
    """The job: magnitude pruning to five sparsities, with a gate on the error; what pruning costs
    under corruptions is looked at too.
    """
    return {
        "type": "prune",
        "model": {"id": model_id},
        "dataset": {"builtin": "digits"},
        "targets": {"sparsity": SPARSITIES},
        "retrain": {"mode": "fine_tune", "epochs": 4, "optimizer": {"lr": 0.02}},
        "evaluations": [
            {"name": "accuracy"},
            {"name": "class_damage"},
            {"name": "scaling_law"},
            {"name": "robustness", "params": {"images": 200}},
        ],
        "gates": {"max_error_increase": 0.02},
        "labels": {"demo": "digits"},
    }


def download(client: Client, job_id: str, out: Path) -> str:
    """Download every checkpoint as sparse file, and the recommended one, or else the first, as
    dense file too; return the id of that one.
    """
    results = client.jobs.results(job_id)
    for checkpoint in results.checkpoints:
        client.jobs.download(
            job_id,
            checkpoint.id,
            out / f"{checkpoint.id}.sparse.safetensors",
            sha256=checkpoint.sha256["sparse"],
        )
    chosen = results.recommended or results.checkpoints[0].id
    client.jobs.download(job_id, chosen, out / f"{chosen}.dense.safetensors", format="dense")
    return chosen


def train(data: Data, epochs: int, path: Path) -> Path:
    """Train the network that is to be pruned, and save it as any user would: a safetensors state
    dict.
    """
    torch.manual_seed(0)
    model = load_model(ARCHITECTURE, **KWARGS)
    schedule = Training(
        epochs=epochs,
        batch_size=64,
        optimizer=Optimizer(lr=0.1),
        lr_schedule=LrSchedule(name="cosine"),
    )
    with console.status(f"training a ResNet-14 on {len(data.fit):,} digits for {epochs} epochs"):
        train_(model, data, schedule, seed=0, name="demo")
    error = measure_network(model, data).document().error
    console.print(f"trained: test error {error.value:.2%} on {error.n} images")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def watch(url: str, job_id: str) -> None:
    """Show the progress of a job as the command line does."""
    subprocess.run(
        [sys.executable, "-m", "secateur.cli", "jobs", "watch", job_id],
        check=False,
        env=os.environ | {"SECATEUR_URL": url},
    )


def show(report: Report) -> None:
    """Print the summary table."""
    table = Table(
        title="Digits, magnitude pruning, fine-tuned: test error",
        box=box.SIMPLE,
        caption="over: above the dense control; before: not yet retrained; of dense: share of "
        "the dense file",
    )
    for column in ("network", "error", "95 %", "over", "before", "bytes", "of dense"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for name, network in (("as given", report.baseline), ("dense control", report.control)):
        table.add_row(
            name,
            f"{network.error.value:.2%}",
            _format_interval(network.error),
            "",
            "",
            f"{network.size_bytes['dense']:,}",
            "100%",
        )
    for checkpoint in report.checkpoints:
        size_bytes = checkpoint.size_bytes["sparse"]
        table.add_row(
            checkpoint.id,
            f"{checkpoint.error.value:.2%}",
            _format_interval(checkpoint.error),
            f"{checkpoint.error_increase.control.value:+.2%}",
            f"{checkpoint.pruned.error.value:.2%}",
            f"{size_bytes:,}",
            f"{size_bytes / report.baseline.size_bytes['dense']:.0%}",
        )
    console.print(table)
    console.print(report.recommendation.reason)


def _format_interval(error: Estimate) -> str:
    return f"{error.low:.1%}-{error.high:.1%}"


def check(report: Report, data: Data, chosen: str, out: Path) -> bool:
    """Reload every downloaded checkpoint and measure it again in plain fp32; return whether all
    errors are those of the report.
    """
    torch.set_num_threads(report.environment.threads)
    all_agree = True
    for checkpoint in report.checkpoints:
        states = {"sparse": read_sparse(out / f"{checkpoint.id}.sparse.safetensors")}
        if checkpoint.id == chosen:
            states["dense"] = load_file(out / f"{checkpoint.id}.dense.safetensors")
        for format, state in states.items():
            model = load_model(ARCHITECTURE, state, **KWARGS)
            error = measure_network(model, data).document().error.value
            agrees = error == checkpoint.error.value
            all_agree &= agrees
            console.print(
                f"{'ok ' if agrees else 'BAD'} {checkpoint.id} reloaded ({format}): error "
                f"{error:.4%}, report {checkpoint.error.value:.4%}"
            )
    return all_agree


if __name__ == "__main__":
    sys.exit(main())
