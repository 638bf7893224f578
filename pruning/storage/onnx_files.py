"""Networks as ONNX files: exported by PyTorch, and equal to the byte for equal networks.

Needs the extra `onnx` (onnx, onnxscript, onnxruntime), which is imported where a file is made.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning.errors import CheckpointError
from pruning.storage.checkpoints import VERSION, write_aside

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install 'secateur[onnx]'"
MAX_BYTES = 2**31 - 1
"""The largest file: protobuf, in which ONNX is written, has no longer messages."""
INPUT, OUTPUT = "images", "logits"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""The sequences that set colours in a terminal."""


def list_missing_packages() -> tuple[str, ...]:
    """The packages of the extra `onnx` that are not installed here."""
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


def explain_missing(packages: tuple[str, ...]) -> str:
    """The sentence that says how to install what is missing.

    >>> explain_missing(("onnx",))
    "ONNX needs packages that are not installed (onnx): pip install 'secateur[onnx]'"
    """
    return f"ONNX needs packages that are not installed ({', '.join(packages)}): {INSTALL}"


def write_onnx(path: Path, model: nn.Module, shape: tuple[int, int, int], **info: Any) -> None:
    """Write the network in eval mode as one ONNX file with a dynamic number of images.

    The input `images` is float32 (N, C, H, W), normalised as for the network itself; the output is
    `logits`. BatchNorm is folded into the convolution before it, which rescales weights and leaves
    zeros zero. Nothing in the file tells paths, times or the machine; `info` goes into the metadata
    entry `secateur`. Raises `CheckpointError` for a network that cannot be exported, or for missing
    packages.
    """
    missing = list_missing_packages()
    if missing:
        raise CheckpointError(explain_missing(missing))
    network = copy.deepcopy(model).cpu().eval()
    example = torch.zeros(2, *shape)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        content = _serialize(program.model_proto, info)
    except Exception as error:  # the exporter raises whatever a network makes it stumble over
        raise CheckpointError(
            f"PyTorch cannot export this network to ONNX: {_shorten(error)}"
        ) from error
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"an ONNX file has at most {MAX_BYTES} bytes, not {len(content)}")
    with write_aside(path) as aside:
        aside.write_bytes(content)


def _serialize(proto: Any, info: dict[str, Any]) -> bytes:
    """The bytes of a model, without what the exporter notes of the source code."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    _strip(proto.graph)
    for function in proto.functions:
        _strip(function)
    entry = proto.metadata_props.add()
    entry.key = "secateur"
    entry.value = json.dumps({"format": "onnx", "version": VERSION, **info}, sort_keys=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _strip(graph: Any) -> None:
    """Remove notes (stack traces, names of files and of graph nodes) from a graph, in place."""
    graph.doc_string = ""
    del graph.metadata_props[:]
    for kind in ("node", "initializer", "input", "output", "value_info"):
        for item in getattr(graph, kind, ()):
            if not isinstance(item, str):
                item.doc_string = ""
                del item.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines from the job's output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _shorten(error: Exception) -> str:
    """The first line of an error with its kind, without the colours of a terminal.

    >>> _shorten(ValueError("step \x1b[96m1\x1b[0m failed"))
    'ValueError: step 1 failed'
    """
    lines = COLOURS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
