"""Loss models and their locality: an MLP on MNIST pruned to 98.847 % in 1, 14 and 140 stages, over
HTTP.

`python benchmarks/loss_modelling.py --mnist FOLDER` (idx files, gzipped) starts the service, trains
784-300-100-10 (tanh) for 40 epochs, prunes it with MP, LM, QM and OBD without retraining, and
prints the change of the training loss with the best of two penalties, and its size relative to that
in one stage. Limits: QM's change in 140 stages is at most 0.6 of that in one; OBD's hardly falls
(at least 0.75 of one stage's). Without the folder it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.embedded import service
from secateur import Client

SPARSITY = 0.98847
STAGES = (1, 14, 140)
PENALTIES = (0.0, 1e-3)
MODELS = ("lm", "qm", "obd")
QM_LIMIT, OBD_LIMIT = 0.6, 0.75


def main() -> int:
    """Measure and print; 1 when a limit is not held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    if not arguments.mnist.is_dir():
        print(f"no MNIST in {arguments.mnist}: nothing measured (--mnist FOLDER)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        data = pack(arguments.mnist, Path(folder) / "mnist.npz")
        with service(Path(folder) / "service") as url, Client(url) as client:
            dataset = client.datasets.upload(data, name="mnist")
            job = client.jobs.submit(describe_job(dataset.id, arguments.epochs))
            job = client.jobs.wait(job.id)
            if job.status != "succeeded":
                print(f"the job {job.status}: {job.error}")
                return 1
            report = client.jobs.results(job.id).report
            assert report is not None
            curves = report["sections"]["loss_model"]["curves"]
    changes = {
        key.removeprefix("true/"): curve["y"][-1]["value"]
        for key, curve in curves.items()
        if key.startswith("true/")
    }
    return show(changes)


def describe_job(dataset: str, epochs: int) -> dict[str, Any]:
    """The job: every loss model with every number of stages and penalty, and magnitude."""
    staged = [
        {"name": name, "params": {"pi": pi, "lambda": penalty}}
        for name in MODELS
        for pi in STAGES
        for penalty in PENALTIES
    ]
    train = {
        "epochs": epochs,
        "batch_size": 100,
        "optimizer": {"lr": 0.01, "weight_decay": 5e-4},
        "lr_schedule": {"name": "constant"},
    }
    return {
        "type": "prune",
        "model": {"architecture": "mlp", "kwargs": {"activation": "tanh"}, "train": train},
        "dataset": {"id": dataset},
        "criterion": [{"name": "magnitude"}, *staged],
        "targets": {"sparsity": [SPARSITY]},
        "retrain": {"mode": "none"},
        "evaluations": [{"name": "loss_model"}],
    }


def show(changes: dict[str, float]) -> int:
    """Print the table; 1 when a limit is not held."""
    print(
        f"change of the mean training loss, sparsity {SPARSITY:.3%}, exponential stages, best of "
        f"lambda in {PENALTIES}"
    )
    heads = [f"pi={pi}" for pi in STAGES]
    print(f"{'':6}" + "".join(f"{head:>18}" for head in heads))
    print(f"{'MP':6}{changes['magnitude']:>18.3f}")
    fractions = {}
    for name in MODELS:
        best = [
            min(changes[f"{name}-pi{pi}-lambda{penalty:g}"] for penalty in PENALTIES)
            for pi in STAGES
        ]
        fractions[name] = best[-1] / best[0]
        cells = [f"{change:>9.3f} ({change / best[0]:.2f}x)" for change in best]
        print(f"{name.upper():6}{''.join(cells)}")
    held = fractions["qm"] <= QM_LIMIT and fractions["obd"] >= OBD_LIMIT
    print(
        f"pi=140 / pi=1: QM {fractions['qm']:.2f} (limit {QM_LIMIT}), "
        f"OBD {fractions['obd']:.2f} (at least {OBD_LIMIT}): {'held' if held else 'NOT held'}"
    )
    return 0 if held else 1


def pack(folder: Path, target: Path) -> Path:
    """Write MNIST's idx files as one npz file, ready for upload."""
    arrays = {
        f"{split}_{part}": read_idx(folder / f"{prefix}-{kind}-ubyte.gz")
        for split, prefix in (("train", "train"), ("test", "t10k"))
        for part, kind in (("x", "images-idx3"), ("y", "labels-idx1"))
    }
    np.savez(target, **arrays)  # type: ignore[arg-type]
    return target


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the array of a gzipped idx file: a head of four bytes, the lengths of the axes, the
    values.
    """
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", raw[4:start])
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


if __name__ == "__main__":
    sys.exit(main())
