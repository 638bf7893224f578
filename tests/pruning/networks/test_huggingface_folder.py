"""Folders as transformers saves them: what is read, what is refused, and what is written again."""

from __future__ import annotations

import importlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from pruning.errors import (
    MissingPackageError,
    ModelError,
    ParameterError,
    SecateurError,
    UnsafeFormatError,
)
from pruning.networks.file_check import check_weights_file
from pruning.networks.loading import load_model, resolve
from pruning.networks.recognition import find_weights
from pruning.networks.uploads import read_upload
from pruning.pipeline.huggingface_export import (
    describe_processor,
    explain_no_folder,
    write_huggingface,
)
from pruning.schemas.preprocessing import Preprocessing
from tests.support.known_networks import (
    NORMALIZE,
    SEGFORMER_CONFIG,
    VIT_CONFIG,
    make_images,
    scale,
    write_upload,
)

Config = dict[str, Any]


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a ViT; its folder is beside it."""
    kwargs = {"config": VIT_CONFIG, "classes": 3}
    arrays = make_images("classification", 32)
    return write_upload(tmp_path_factory.mktemp("vit"), "huggingface", kwargs, arrays)


@pytest.fixture
def folder(uploaded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(uploaded.parent / "net", tmp_path / "net"))


def change(folder: Path, name: str, **entries: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_folder_says_what_its_network_is(uploaded: Path, tmp_path: Path) -> None:
    upload = read_upload(uploaded, tmp_path)
    assert upload.architecture == "huggingface"
    assert upload.classes == ["red", "green", "blue"]
    assert upload.kwargs["classes"] == 3
    assert "id2label" not in upload.kwargs["config"]
    assert upload.known["normalize"] == NORMALIZE
    assert upload.known["preprocessing"]["sizes"]["resize"] == [32, 32]
    transformers = pytest.importorskip("transformers")
    own = transformers.AutoModelForImageClassification.from_pretrained(uploaded.parent / "net")
    images = scale(make_images("classification", 32).images["test"])
    network = load_model("huggingface", upload.states[""], **upload.kwargs)
    with torch.no_grad():
        logits = own(pixel_values=images).logits
        torch.testing.assert_close(network(images), logits)
    report = check_weights_file(uploaded)
    assert report.usable
    assert check_weights_file(uploaded.parent / "net") == report


def test_files_that_are_not_read_stay_in_the_zip(uploaded: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(uploaded, tmp_path / "net.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/modeling.py", "raise SystemExit")
        archive.writestr("net/../../outside.safetensors", b"x")
    scratch = tmp_path / "scratch"
    read_upload(path, scratch)
    assert sorted(file.name for file in (scratch / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    with pytest.raises(ModelError, match="at most 100 fit"):
        read_upload(path, tmp_path / "other", 100)


CONFIGS: dict[str, tuple[Config, type[SecateurError], str]] = {
    "code": ({"auto_map": {"AutoModel": "x.Y"}}, UnsafeFormatError, "'auto_map' makes"),
    "trusted code": ({"trust_remote_code": True}, UnsafeFormatError, "'trust_remote_code' makes"),
    "nested": ({"text_config": {"auto_map": {}}}, UnsafeFormatError, "'auto_map' makes"),
    "fetched": ({"backbone": "microsoft/resnet-50"}, ParameterError, "would be fetched"),
    "quantised": ({"quantization_config": {}}, ParameterError, "before quantisation"),
    "task": ({"architectures": ["ViTModel"]}, ParameterError, "none of the networks"),
    "type": ({"model_type": "vitt"}, ParameterError, "does not take it"),
    "class": ({"architectures": ["ViTsForImageClassification"]}, ParameterError, "has no ViTs"),
    "labels": ({"problem_type": "multi_label_classification"}, ParameterError, "one class"),
    "names": ({"id2label": {"0": "a", "2": "b"}}, ModelError, "must name the outputs 0, 1, 2"),
    "one output": ({"id2label": {"0": "a"}}, ModelError, "at least two"),
    "layers": ({"num_hidden_layers": 2}, ModelError, "the weights lack vit.layers.1"),
    "widths": ({"intermediate_size": 40}, ModelError, "does not load the folder"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_folder_that_cannot_be_taken_is_refused_by_name(case: str, folder: Path) -> None:
    entries, error, message = CONFIGS[case]
    change(folder, "config.json", **entries)
    with pytest.raises(error, match=message):
        read_upload(folder, folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in str(read_upload(folder, folder).notes)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.safetensors; save it again"):
        read_upload(folder, folder)


def test_labels_without_names_and_names_that_come_twice(folder: Path) -> None:
    change(folder, "config.json", id2label={str(n): f"LABEL_{n}" for n in range(3)})
    assert read_upload(folder, folder).classes is None
    change(folder, "config.json", id2label={"0": "crane", "1": "cat", "2": "crane"})
    upload = read_upload(folder, folder)
    assert upload.classes == ["crane", "cat", "crane (2)"]
    assert "crane (2)" in upload.notes[0]


def test_pixels_are_resized_as_transformers_does() -> None:
    architecture: Any = resolve("huggingface", {"config": SEGFORMER_CONFIG, "classes": 3})
    assert (architecture.task, architecture.input_shape) == ("segmentation", (3, None, None))
    network = architecture.build().eval()
    own: Any = architecture.build_own().eval()
    own.load_state_dict(network.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        logits = own(pixel_values=images).logits
        assert logits.shape == (1, 3, 16, 24)
        resized = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
        assert torch.equal(network(images), resized)


PROCESSINGS: tuple[tuple[Config, tuple[int, int]], ...] = (
    ({"resize": [32, 40], "interpolation": "bicubic"}, (32, 40)),
    ({"resize": 40, "crop": 32, "interpolation": "bilinear"}, (32, 32)),
    ({}, (57, 90)),
)


@pytest.mark.parametrize(("sizes", "shape"), PROCESSINGS)
def test_the_written_processor_prepares_images_as_the_job_did(
    sizes: Config, shape: tuple[int, int], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    preprocessing = Preprocessing(**NORMALIZE, source="given", **sizes)
    document = describe_processor(preprocessing)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    photo = torch.full((3, 57, 90), 191, dtype=torch.uint8)
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, *shape)
    torch.testing.assert_close(pixels, torch.full_like(pixels, (191 / 255 - 0.5) / 0.25))


def test_a_folder_is_written_that_transformers_loads(uploaded: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    upload = read_upload(uploaded, tmp_path / "scratch")
    network = load_model("huggingface", upload.states[""], **upload.kwargs)
    with torch.no_grad():
        network.get_parameter("classifier.weight")[:, ::2] = 0
    preprocessing = Preprocessing(**NORMALIZE, source="model", resize=(32, 32))
    written = []
    for name in ("a.zip", "b.zip"):
        write_huggingface(
            tmp_path / name,
            network,
            upload.kwargs,
            classes=upload.classes or [],
            preprocessing=preprocessing.model_dump(),
            card="# A card\n",
        )
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    shutil.unpack_archive(tmp_path / "a.zip", tmp_path / "out")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label == {0: "red", 1: "green", 2: "blue"}
    images = scale(make_images("classification", 32).images["test"])
    with torch.no_grad():
        torch.testing.assert_close(again(pixel_values=images).logits, network(images))
    assert read_upload(tmp_path / "out", tmp_path).classes == upload.classes


def test_a_folder_of_timm_is_a_network_of_timm(tmp_path: Path) -> None:
    """As `timm.models.push_to_hf_hub` writes it."""
    network = resolve("timm", {"name": "test_efficientnet", "classes": 4}).build()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_efficientnet",
        "num_classes": 4,
        "label_names": ["a", "b", "c", "d"],
        "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 1.0, "mean": [0.5] * 3,
                           "std": [0.5] * 3, "interpolation": "bicubic"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    upload = read_upload(tmp_path, tmp_path)
    assert (upload.architecture, upload.classes) == ("timm", ["a", "b", "c", "d"])
    assert upload.known["preprocessing"]["sizes"]["crop"] == 64
    candidate, _ = find_weights("timm", upload.kwargs, upload.states)
    assert candidate.exact


def test_where_there_is_no_folder_the_reason_is_said() -> None:
    assert explain_no_folder("huggingface", compacts=False) is None
    assert "cannot say that channels were removed" in str(
        explain_no_folder("huggingface", compacts=True)
    )
    assert "'torchvision'" in str(explain_no_folder("torchvision", compacts=False))


def test_without_transformers_the_message_says_what_to_install(
    uploaded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingPackageError, match=r"pip install 'secateur\[transformers\]'"):
        read_upload(uploaded, tmp_path)
