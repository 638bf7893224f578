"""State dicts as people have them: wrappers, prefixes, masks, old names, types, damaged files."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from pruning.errors import ModelError, SecateurError, UnsafeFormatError
from pruning.networks.loading import check_state, resolve
from pruning.networks.state_dicts import fit_state, read_weights

State = dict[str, Tensor]


def build() -> nn.Sequential:
    """A small network with a convolution, BatchNorm, LayerNorm and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm(2), nn.Linear(2, 3)
    )


def rename(state: State, pattern: str, replacement: str) -> State:
    return {re.sub(pattern, replacement, name): value for name, value in state.items()}


def pruned() -> State:
    """The state dict while torch.nn.utils.prune is at work."""
    net = build()
    prune.l1_unstructured(net[4], "weight", amount=0.5)
    return dict(net.state_dict())


def normalised() -> State:
    net = build()
    parametrizations.weight_norm(net[4])
    return dict(net.state_dict())


WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, ""),
    "state_dict": (lambda state: {"epoch": 3, "state_dict": state}, "'state_dict'"),
    "model": (lambda state: {"model": state, "optimizer": {"state": {0: state}}}, "'model'"),
    "averaged too": (lambda state: {"model_ema": state, "model": state}, "'model_ema'"),
    "averaged alone": (lambda state: {"ema": state}, "from 'ema'"),
    "nested": (lambda state: {"net": {"state_dict": state}}, "'net.state_dict'"),
    "arguments": (
        lambda state: {
            "state_dict": state,
            "args": argparse.Namespace(path=Path("x")),
            "best": np.float64(1),
            "history": defaultdict(list),
        },
        "'state_dict'",
    ),
    "module": (lambda state: rename(state, "^", "module."), "'module.' was taken off"),
    "compiled": (lambda state: rename(state, "^", "_orig_mod."), "'_orig_mod.' was taken off"),
    "both": (lambda state: rename(state, "^", "module._orig_mod."), "'_orig_mod.', 'module.'"),
    "lightning": (
        lambda state: {
            "state_dict": rename(state, "^", "model.") | {"criterion.weight": torch.ones(1)}
        },
        "'criterion.weight' was left out",
    ),
    "between": (lambda state: rename(state, r"^1\.", "1.module."), "'module.' was taken off"),
    "any prefix": (lambda state: rename(state, "^", "densenet121.net."), "'densenet121.net.'"),
    "swa": (
        lambda state: rename(state, "^", "module.") | {"n_averaged": torch.tensor(3)},
        "'module.'",
    ),
    "profiled": (lambda state: state | {"0.total_ops": torch.zeros(1)}, ""),
    "double": (
        lambda state: {n: v.double() if v.is_floating_point() else v for n, v in state.items()},
        "float64 became float32",
    ),
    "odd counter": (lambda state: state | {"1.num_batches_tracked": torch.ones(1)}, ""),
    "layer norm": (
        lambda state: rename(rename(state, r"3\.w.*", "3.gamma"), r"3\.b.*", "3.beta"),
        "replaced",
    ),
    "head": (lambda state: rename(state, r"^4\.", "4.1."), "4.1 was taken as 4"),
    "transposed memory": (
        lambda state: state | {"4.weight": state["4.weight"].t().contiguous().t()},
        "",
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
@pytest.mark.parametrize("case", WRAPPED)
def test_a_state_dict_is_taken_from_what_lies_around_it(
    tmp_path: Path, case: str, legacy: bool
) -> None:
    wrap, note = WRAPPED[case]
    net = build()
    content = wrap(dict(net.state_dict()))
    torch.save(content, tmp_path / "f", _use_new_zipfile_serialization=not legacy)
    fitted = fit_state(net.state_dict(), read_weights(tmp_path / "f"))
    check_state(net.state_dict(), fitted.state)
    for name, value in net.state_dict().items():
        if name != "1.num_batches_tracked":
            assert torch.equal(fitted.state[name], value), name
    assert fitted.state["1.num_batches_tracked"].shape == ()
    assert note in "; ".join(fitted.notes)
    assert bool(fitted.notes) == bool(note)


def test_safetensors_are_adapted_alike(tmp_path: Path) -> None:
    net = build()
    save_file(rename(dict(net.state_dict()), "^", "module."), tmp_path / "f")
    fitted = fit_state(net.state_dict(), read_weights(tmp_path / "f"))
    check_state(net.state_dict(), fitted.state)


def test_masks_of_torch_become_zeros_and_weight_norm_a_weight() -> None:
    net, state = build(), pruned()
    fitted = fit_state(net.state_dict(), {"": state})
    expected = state["4.weight_orig"] * state["4.weight_mask"]
    assert torch.equal(fitted.state["4.weight"], expected)
    assert int((fitted.state["4.weight"] == 0).sum()) == 3
    assert "prune" in fitted.notes[0]
    fitted = fit_state(net.state_dict(), {"": rename(normalised(), "^", "module.")})
    assert torch.allclose(fitted.state["4.weight"], net.get_parameter("4.weight"))


def test_the_first_of_several_that_fits_is_taken() -> None:
    net = build()
    states = {"model": {"x": torch.ones(1)}, "teacher": dict(net.state_dict())}
    fitted = fit_state(net.state_dict(), states)
    assert fitted.notes == (
        "the weights were taken from 'teacher' of the file; it also holds 'model'",
    )


def test_a_larger_network_is_not_cut_to_fit() -> None:
    net = build()
    larger = rename(dict(net.state_dict()) | {"5.weight": torch.ones(1)}, "^", "module.")
    fitted = fit_state(net.state_dict(), {"": larger})
    assert fitted.differences.unexpected == ("5.weight",)
    with pytest.raises(ModelError, match=r"unexpected 5\.weight"):
        check_state(net.state_dict(), fitted.state)


def test_published_names_of_densenet_and_auxiliary_heads() -> None:
    with torch.device("meta"):
        wanted = resolve("torchvision", {"name": "densenet121"}).build().state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value
        for name, value in wanted.items()
        if not name.endswith("num_batches_tracked")
    }
    fitted = fit_state(wanted, {"state_dict": old})
    assert not fitted.differences.count
    assert "norm.1.weight' is" in fitted.notes[1]
    with torch.device("meta"):
        wanted = resolve("torchvision_segmentation", {}).build().state_dict()
    published = wanted | {"aux_classifier.0.weight": torch.ones(1)}
    fitted = fit_state(wanted, {"": published})
    assert not fitted.differences.count
    assert fitted.notes == (
        "'aux_classifier.0.weight' was left out: the network has no such tensor",
    )


class _Evil:
    def __reduce__(self) -> Any:
        return eval, ("open('ran', 'w')",)


def _zip(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(name, content)

    return write


REFUSED: dict[str, tuple[Callable[[Path], Any], type[SecateurError], str]] = {
    "module": (lambda path: torch.save(nn.Linear(1, 1), path), UnsafeFormatError,
               r"a whole Python object \(torch.nn.modules.linear.Linear\).*model.state_dict\(\)"),
    "module inside": (lambda path: torch.save({"model": nn.Linear(1, 1)}, path), UnsafeFormatError,
                      "'model' is a torch.nn.modules.linear.Linear"),
    "code": (lambda path: torch.save({"a": _Evil()}, path), UnsafeFormatError, "'eval', which"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": _Evil()}, protocol=4)),
               UnsafeFormatError, "state_dict"),
    "list": (lambda path: torch.save([1], path), ModelError, "holds a list"),
    "empty": (lambda path: torch.save({"epoch": 1}, path), ModelError, "no state dict"),
    "shell": (_zip("x/constants.pkl", b""), UnsafeFormatError, "TorchScript"),
    "export": (_zip("x/archive_format", b"pt2"), UnsafeFormatError, "pt2"),
    "other zip": (_zip("weights.pth", b"x"), UnsafeFormatError, "it holds 'weights.pth'"),
    "bomb": (_zip("x/data.pkl", b"0" * 9999, zipfile.ZIP_DEFLATED), UnsafeFormatError,
             "compressed"),
    "cut zip": (lambda path: path.write_bytes(b"PK\3\4 a zip"), UnsafeFormatError, "cut short"),
    "damaged": (_zip("x/data.pkl", b"\x80\x02}."), ModelError, "state_dict"),
    "expanded": (lambda path: torch.save({"a": torch.zeros(1).expand(10**9)}, path), ModelError,
                 "fewer numbers"),
    "quantised": (
        lambda path: torch.save({"a": torch.quantize_per_tensor(torch.ones(1), 1, 0, torch.qint8)},
                                path),
        ModelError, "from before quantisation"),
    "keras": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), ModelError, "HDF5"),
    "pointer": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
                ModelError, "Git LFS"),
    "page": (lambda path: path.write_bytes(b"<!doctype html>\n<html></html>"), ModelError,
             "web page"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_dict_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write, error, message = REFUSED[case]
    write(tmp_path / "f")
    with pytest.raises(error, match=message) as caught:
        read_weights(tmp_path / "f")
    assert "Error" not in caught.value.message
    assert not (tmp_path / "ran").exists()
