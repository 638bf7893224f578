"""The job process: a working folder and a pipe, no settings, no credentials, and no network where the kernel allows it.

`python -m tasks.job_process FOLDER FD`: reads `job.json`, runs the pipeline, and tells the supervisor of every saved
file as one JSON line on the file descriptor. It ends itself when the supervisor dies.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.schemas.family_report import FamilyReport
    from pruning.schemas.report import Report

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
PROGRESS_S = 0.5


class Pipe:
    """Messages to the supervisor, one JSON line each, in order."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1)
        self._progress_at = 0.0
        self._done = -1.0

    def send(self, type: str, **data: Any) -> None:
        """One message."""
        self._file.write(json.dumps({"type": type, **data}) + "\n")

    def stage(self, stage: str, name: str) -> None:
        """A stage begins."""
        self.send("stage", stage=stage, name=name)

    def progress(self, done: float, total: float) -> None:
        """Work done; at most two messages a second. Where it is as much as before, only a sign of life."""
        now, further = time.monotonic(), done != self._done
        if now - self._progress_at >= PROGRESS_S or (further and done >= total):
            self._progress_at, self._done = now, done
            if further:
                self.send("progress", done=done, total=total)
            else:
                self.send("alive")

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self.send("warning", message=message)


def main() -> int:
    """Run the job of the folder; the exit status says nothing that a message did not."""
    folder, pipe = Path(sys.argv[1]), Pipe(int(sys.argv[2]))
    _die_with_supervisor()
    _leave_network()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    job = json.loads((folder / "job.json").read_text())
    try:
        if job["spec"]["type"] == "family":
            from tasks.family_process import run

            run(folder, job, pipe)
        else:
            _run(folder, job, pipe)
    except Exception as error:
        from pruning.errors import SecateurError

        logging.exception("the job failed")
        pipe.send("error", **_describe(error, SecateurError))
        return 1
    return 0


def _run(folder: Path, job: dict[str, Any], pipe: Pipe) -> None:
    import torch

    from pruning.data.arrays import Arrays
    from pruning.data.builtin import datasets
    from pruning.data.cache import TensorCache
    from pruning.data.shifted import splits
    from pruning.data.tensors import prepare
    from pruning.family.members import measured
    from pruning.library import pick_device
    from pruning.measure import flops
    from pruning.networks import check_fits, load_state_, parameters_of, read_state, resolve
    from pruning.pipeline import Networks, Pipeline
    from pruning.results import Origin, Results
    from pruning.scale import Scale, evaluation_units
    from pruning.schemas.job import JobSpec
    from pruning.stages import Stages
    from pruning.trial import TrialRound

    torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    spec = JobSpec.model_validate(job["spec"])
    recipe, model = spec.recipe(), job["model"]
    device = pick_device(spec.device)
    dataset = job["dataset"]
    arrays = Arrays.load(folder / "data.safetensors") if spec.dataset.builtin is None \
        else datasets.create(spec.dataset.builtin).load()
    data = prepare(arrays, limit=recipe.limit, seed=recipe.seed, normalize=model["normalize"] or dataset["normalize"],
                   classes=model["classes"])
    data = replace(data, shifted={
        one.name: splits(one.name, Arrays.load(folder / f"shifted-{number}.safetensors"), data, seed=recipe.seed)
        for number, one in enumerate(spec.dataset.shifted)}).to(device)
    architecture = resolve(model["architecture"], model["kwargs"], shape=data.shape, classes=len(data.classes))
    check_fits(architecture, data.shape, data.classes, arrays.task)

    def state(name: str) -> dict[str, torch.Tensor] | None:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            return None
        network = architecture.build()
        load_state_(network, read_state(path))
        return network.state_dict()

    def saved(name: str, path: Path) -> None:
        pipe.send("saved", name=name, path=str(path))

    stages = Stages(folder / "stages", recipe.digest(), saved, lambda name: pipe.send("dropped", name=name))
    with torch.device("meta"):
        macs = max(1, flops(architecture.build(), data.shape) // 2)
    scale = Scale(recipe, data.sizes, data.shape, macs, {
        name: (len(one.val), len(one.test)) for name, one in data.shifted.items()}, data.segmentation)
    pipeline = Pipeline(recipe, Networks(architecture.build, state("model"), state("rewind")), data, stages, pipe, device,
                        job["checkpoint_steps"], evaluations=evaluation_units(scale))
    origin = Origin(job["id"], job["spec"], model["architecture"], parameters_of(architecture), model["sha256"],
                    dataset["name"], dataset["sha256"])
    results = Results(pipeline, origin, folder / "files",
                      lambda checkpoint, format, path: pipe.send("file", checkpoint=checkpoint, format=format,
                                                                 path=str(path)))

    if job["cache"]["bytes"]:
        results.cache = TensorCache(Path(job["cache"]["folder"]), job["cache"]["bytes"])

    for note in arrays.notes:
        pipeline.ledger.warn(f"dataset: {note}")

    def publish(report: Report) -> None:
        # the summary goes first: a job that is cancelled between two messages has one for every report it stored
        document = report.model_dump(mode="json")
        curve = measured(document)
        pipe.send("summary", summary={
            "recommendation": document["recommendation"], "gates": document["gates"],
            "curve": None if curve is None else curve.model_dump(mode="json")})
        send_report(report, folder / "files", pipe)

    def finished(done: TrialRound) -> None:
        if not results.export(done):
            return
        report = results.report(partial=True)
        publish(report)
        checkpoint = report.checkpoints[-1]
        pipe.send("checkpoint", id=checkpoint.id, sparsity=checkpoint.sparsity, error=checkpoint.error.value)

    pipeline.target_done = finished
    pipeline.run()
    sections, failures = results.evaluate()
    publish(results.report(sections, failures))
    pipe.send("done")


def send_report(report: Report | FamilyReport, folder: Path, pipe: Pipe) -> None:
    """Write the report in every format and tell the supervisor."""
    from pruning.reporting import RENDERERS

    renderers: dict[str, Callable[[Any], str]] = {"json": lambda r: r.model_dump_json(), **RENDERERS}
    for format, render in renderers.items():
        path = folder / f"report.{format}"
        aside = path.with_name(f".{path.name}")
        aside.write_text(render(report))
        aside.replace(path)  # the supervisor may be reading the one before
        pipe.send("file", checkpoint="report", format=format, path=str(path))


def _describe(error: Exception, known: type[Any]) -> dict[str, Any]:
    if isinstance(error, known):
        return {"code": error.code, "message": str(error), "retryable": error.retryable}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"code": "disk_full", "message": f"no space left for the job's files: {error}", "retryable": True}
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return {"code": "out_of_memory", "message": str(error), "retryable": True}
    return {"code": "internal", "message": f"{type(error).__name__}: {error}", "retryable": False}


def _die_with_supervisor() -> None:
    """Parent-death signal where there is one, end of the pipe on stdin everywhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _leave_network() -> None:
    """A network namespace of its own, with nothing in it; needs a privilege, and is left out without it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET)


if __name__ == "__main__":
    sys.exit(main())
