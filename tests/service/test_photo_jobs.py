"""A job on photos of any size over HTTP, from a network of a plain script to its checkpoint."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import pruning.architectures._torchvision_shim  # noqa: F401
from secateur import ApiError
from tests.support.photo_world import CLASSES, encode, make_photo, write_zip
from tests.support.running import Running

pytestmark = pytest.mark.slow

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
PREPROCESSING = {"resize": 72, "crop": 64, "interpolation": "bicubic", "mean": MEAN, "std": STD}


def make_large_files(count: int = 40) -> dict[str, bytes]:
    rng = np.random.default_rng(4)
    files = {}
    for number in range(count):
        label = number % len(CLASSES)
        split = "test" if number >= count - 16 else "train"
        photo = make_photo(rng, label, 150, 600)
        files[f"{split}/{CLASSES[label]}/{number:03}.jpg"] = encode(photo)
    return files


def read_inputs(files: Mapping[str, bytes], split: str) -> tuple[Tensor, Tensor]:
    """The photos of a split as a plain script of torchvision prepares them, and their classes."""
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    transform = transforms.Compose(
        [
            transforms.Resize(72, InterpolationMode.BICUBIC),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    names = [name for name in files if name.startswith(split)]
    photos = [Image.open(io.BytesIO(files[name])).convert("RGB") for name in names]
    labels = [CLASSES.index(name.split("/")[1]) for name in names]
    return torch.stack([transform(photo) for photo in photos]), torch.tensor(labels)


def fine_tune(files: Mapping[str, bytes]) -> nn.Module:
    """A network of torchvision that knows the training photos, trained by a plain script."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    model = squeezenet1_1(num_classes=len(CLASSES))
    inputs, labels = read_inputs(files, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.timeout(900)
def test_photos_and_a_fine_tuned_network_give_the_errors_of_a_plain_script(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_large_files()
    client = service.client
    dataset = client.datasets.upload(write_zip(files, tmp_path / "photos.zip"))
    assert dataset.model_extra is not None
    assert dataset.model_extra["shape"] == [3, None, None]
    assert dataset.model_extra["sizes"]["largest"][0] > 400
    network = fine_tune(files)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    kwargs = {"name": "squeezenet1_1", "classes": 4}
    model = client.models.upload(
        tmp_path / "net.safetensors", "torchvision", kwargs=kwargs, preprocessing=PREPROCESSING
    )
    spec: dict[str, Any] = {
        "type": "prune",
        "model": {"id": model.id},
        "dataset": {"id": dataset.id},
        "targets": {"sparsity": [0.3]},
        "retrain": {"batch_size": 8, "optimizer": {"lr": 0.001}},
        "evaluations": [{"name": "robustness", "params": {"corruptions": ["contrast"]}}],
    }
    planned = client.jobs.validate(spec)["preprocessing"]
    assert planned == {
        **PREPROCESSING,
        "source": "given",
        "size_source": "given",
        "shape": [3, 64, 64],
    }
    job = client.jobs.submit(spec)
    client.jobs.wait(job.id, timeout_s=300, interval_s=0.2)
    report = client.jobs.results(job.id).parsed_report()
    assert report.failures == ()
    inputs, labels = read_inputs(files, "test")
    with torch.no_grad():
        wrong = network(inputs).argmax(1) != labels
    assert report.baseline.error.value == pytest.approx(float(wrong.double().mean()))
    (checkpoint,) = report.checkpoints
    folder = tmp_path / "photos"
    paths = []
    for name in files:
        if name.startswith("test"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
            paths.append(str(path))
    monkeypatch.chdir(tmp_path)
    target = tmp_path / f"{checkpoint.id}.dense.safetensors"
    client.jobs.download(job.id, checkpoint.id, target, format="dense")
    names: dict[str, Any] = {}
    exec(checkpoint.load_snippet, names)
    assert names["photo_error"](paths, labels) == pytest.approx(checkpoint.error.value)
    again = client.models.upload(target)
    assert again.model_extra is not None
    known = again.model_extra["preprocessing"]
    assert {name: known[name] for name in PREPROCESSING} == PREPROCESSING
    assert (known["source"], known["size_source"]) == ("model", "model")
    spec["dataset"]["preprocessing"] = {"crop": 16}
    spec["model"] = {"architecture": "vgg", "train": {"epochs": 1}}
    with pytest.raises(ApiError, match="at least 32 x 32"):
        client.jobs.validate(spec)
