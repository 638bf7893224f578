"""Images that do not fit into memory: the memory that reading them takes, and the speed.

`python benchmarks/stored_images.py [--photos 500,1000,2000] [--images 32] [--decoded 256]` makes
synthetic JPEGs of 400 x 300 pixels, and measures, each ratio in one run:

- the peak resident memory of a process that reads and crops all photos of a dataset, for datasets
  of growing size (50 GB are `--photos 500000`), beyond that of the process before it reads;
- the speed of training a ResNet-18 at 224 x 224 with images from the disk, decoded and cropped at
  random, beside the same training on a tensor, in turn;
- images decoded per second of CPU time beside torchvision's ImageFolder and PyTorch's DataLoader
  with the same random crops.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

import pruning.architectures._torchvision_shim  # noqa: F401
from pruning.data.arrays import Arrays
from pruning.data.photo_images import PhotoImages
from pruning.data.photos import Photos, find_starts
from pruning.data.reading_ahead import read_ahead
from pruning.data.scratch import Spool
from pruning.data.tensors import Data, Split
from pruning.library import load_model
from pruning.schemas.preprocessing import Resizing
from pruning.schemas.training import Training
from pruning.training.loop import train_

CROP = Resizing(resize=256, crop=224, interpolation="bilinear")
WIDTH, HEIGHT, DISTINCT, BATCH = 400, 300, 16, 32
CLASSES = ("a", "b")


def main() -> int:
    """Measure all three and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="500,1000,2000", help="photos of each dataset")
    parser.add_argument("--images", type=int, default=32, help="images of a training; 0: none")
    parser.add_argument("--decoded", type=int, default=256, help="images that are decoded")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        _read_all(options.read)
        return 0
    files = _make_files()
    with tempfile.TemporaryDirectory() as folder:
        _measure_memory(files, [int(count) for count in options.photos.split(",")], Path(folder))
        if options.images:
            _measure_training(files, options.images, options.repeats, Path(folder))
        _measure_decoding(files, options.decoded, options.repeats, Path(folder))
    return 0


def _make_files() -> list[bytes]:
    """Different JPEGs, smooth with noise as photos are."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        pixels = (pixels + rng.integers(-15, 16, pixels.shape)).clip(0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def _write_dataset(files: list[bytes], count: int, folder: Path) -> Path:
    """A dataset of so many photos, the same ones again and again; they are never all in memory."""
    photos, labels = {}, {}
    for split, size in (("train", count), ("test", 2)):
        spool = Spool(folder)
        for number in range(size):
            spool.append(files[number % len(files)])
        photos[split] = Photos(
            content=spool.finish(),
            starts=find_starts(len(files[number % len(files)]) for number in range(size)),
            sizes=np.tile(np.array([HEIGHT, WIDTH]), (size, 1)),
            channels=3,
            split=split,
        )
        labels[split] = np.arange(size) % 2
    path = folder / f"{count}.safetensors"
    Arrays({}, labels, CLASSES, photos=photos).save(path)
    return path


def _load_photos(path: Path) -> PhotoImages:
    return PhotoImages(Arrays.load(path, in_memory=False).photos["train"], CROP)


def _read_all(path: Path) -> None:
    """Read and crop every photo, and print the peak memory before and after, in bytes."""
    photos = _load_photos(path)
    photos.crop_at_random(torch.arange(BATCH), 0, "first")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    order = torch.randperm(len(photos))
    for _ in read_ahead(lambda index: photos.crop_at_random(index, 0), torch.split(order, BATCH)):
        pass
    print(before * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _measure_memory(files: list[bytes], counts: list[int], folder: Path) -> None:
    peaks = []
    for count in counts:
        path = _write_dataset(files, count, folder)
        command = [sys.executable, __file__, "--read", str(path)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, peak = map(int, output.split())
        peaks.append(peak)
        print(
            f"memory: {path.stat().st_size / 1e6:,.0f} MB of photos, peak {peak / 2**20:,.0f} MiB, "
            f"{(peak - before) / 2**20:+.1f} MiB by reading all"
        )
        path.unlink()
    growth = counts[-1] / counts[0]
    print(f"memory: {peaks[-1] / peaks[0]:.3f}x the peak for {growth:.0f}x the photos")


def _measure_training(files: list[bytes], images: int, repeats: int, folder: Path) -> None:
    photos = _load_photos(_write_dataset(files, images, folder))
    labels = torch.arange(images) % 2
    pixels = photos.decode(slice(None))
    pairs = []
    for _ in range(repeats):
        on_disk = _time(lambda: _train(Split(photos, labels)))
        in_memory = _time(lambda: _train(Split(pixels, labels)))
        pairs.append((images / on_disk, images / in_memory))
    _print_ratio("training, ResNet-18 at 224", pairs, ("from the disk", "from a tensor"))


def _train(split: Split) -> None:
    data = Data(fit=split, val=split, test=split, classes=CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3)
    model = load_model("torchvision", name="resnet18", classes=2)
    train_(model, data, Training(epochs=1, batch_size=8), seed=0, name="benchmark")


def _measure_decoding(files: list[bytes], images: int, repeats: int, folder: Path) -> None:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    for number in range(images):
        path = folder / "images" / CLASSES[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % len(files)])
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    dataset = ImageFolder(str(folder / "images"), transforms.Compose(steps))
    photos = _load_photos(_write_dataset(files, images, folder))
    batches = torch.split(torch.randperm(images), BATCH)

    def read_ours() -> None:
        for _ in read_ahead(lambda index: photos.crop_at_random(index, 0), batches):
            pass

    def read_theirs() -> None:
        for _ in DataLoader(dataset, batch_size=BATCH, shuffle=True):
            pass

    torch.set_num_threads(1)  # threads that wait busily would count
    pairs = []
    for _ in range(repeats):
        ours = images / _time(read_ours, time.process_time)
        pairs.append((ours, images / _time(read_theirs, time.process_time)))
    _print_ratio("decoding per CPU second", pairs, ("here", "ImageFolder and DataLoader"))


def _time(act: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    begin = clock()
    act()
    return clock() - begin


def _print_ratio(what: str, pairs: list[tuple[float, float]], names: tuple[str, str]) -> None:
    """Print the medians of both, and of the ratios of neighbours."""
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{what}: {names[0]} {ours:,.1f} images/s, {names[1]} {theirs:,.1f} images/s, "
        f"{statistics.median(ratios):.0%} ({ratios[0]:.0%} to {ratios[-1]:.0%}), "
        f"{torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    sys.exit(main())
