"""The files of a folder as transformers saves it. Free of torch."""

from __future__ import annotations

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
CARD = "README.md"


def is_read(name: str) -> bool:
    """Whether a file of a folder is read when it is uploaded as a network.

    >>> is_read("model-00001-of-00002.safetensors"), is_read("modeling.py"), is_read("README.md")
    (True, False, False)
    """
    return name in (CONFIG, PREPROCESSOR, *WEIGHTS) or (
        name.startswith("model") and name.endswith(".safetensors")
    )
