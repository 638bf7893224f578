"""A public ResNet-20 on JPEG-recompressed CIFAR-10, where both lie beside the repository."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DATA = Path(__file__).parents[2].parent / "shared" / "data"
NETWORK = DATA / "resnet20-cifar10.safetensors"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
Images = tuple[Tensor, Tensor]


def read(split: str, count: int) -> Images:
    """Read the first files of every class, sorted by name; normalised."""
    with zipfile.ZipFile(DATA / "cifar10-jpeg.zip") as archive:
        names = sorted(
            name
            for name in archive.namelist()
            if name.startswith(f"{split}/") and name.endswith(".jpg")
        )
        classes = sorted({name.split("/")[1] for name in names})
        chosen = [
            (name, label)
            for label, cls in enumerate(classes)
            for name in [name for name in names if name.split("/")[1] == cls][:count]
        ]
        pixels = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                for name, _ in chosen
            ]
        )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std, torch.tensor([label for _, label in chosen])
