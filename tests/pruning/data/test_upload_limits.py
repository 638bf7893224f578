"""The limits of uploads, and files that are damaged at random."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_numpy

from pruning.data import archives
from pruning.data import images as image_files
from pruning.errors import DataError, UnsafeFormatError
from tests.support.uploaded_files import arrays, encoded, folder, npz, picture, read, zipped


def test_too_many_values_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    flat = encoded(np.zeros((100, 100, 3), np.uint8))
    assert len(flat) < 1000
    files = {
        f"{split}/{label}/{i}.png": flat
        for split in ("train", "test")
        for label in "ab"
        for i in range(2)
    }
    assert read(zipped(files), tmp_path, most=240_000).shape == (3, 100, 100)
    with pytest.raises(DataError, match="decode to more than"):
        read(zipped(files), tmp_path, most=119_999)
    with pytest.raises(
        DataError, match="decode to more than"
    ):  # the limit is that of the dataset, not of a split
        read(zipped(files), tmp_path, most=239_999)


def test_an_image_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(DataError, match="4x4 pixels; at most 15"):
        read(zipped(folder()), tmp_path)


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [("MAX_ENTRIES", 5, "6 entries; at most 5"), ("MAX_ENTRY_BYTES", 10, "bytes; at most 10")],
)
def test_limits_of_the_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, message: str
) -> None:
    monkeypatch.setattr(archives if hasattr(archives, name) else image_files, name, limit)
    with pytest.raises(DataError, match=message):
        read(zipped(folder()), tmp_path)


SEEDS = {
    "zip": zipped(
        folder(
            train__a__3_dot_jpg=encoded(picture(0), "JPEG"),
            train__a__4_dot_bmp=encoded(picture(1), "BMP"),
            train__a__5_dot_tif=encoded(picture(1), "TIFF"),
            train__a__6_dot_webp=encoded(picture(1), "WEBP"),
            train__a__7_dot_ppm=encoded(picture(1), "PPM"),
        ),
        zipfile.ZIP_STORED,
    ),
    "deflated": zipped(folder()),
    "npz": npz(arrays()),
    "safetensors": save_numpy(arrays()),
}


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they find in broken files
@pytest.mark.parametrize("kind", SEEDS)
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_files_never_fail_otherwise(
    tmp_path: Path, kind: str, edits: list[tuple[float, int]], cut: float | None
) -> None:
    content = bytearray(SEEDS[kind])
    for position, value in edits:
        content[int(position * len(content))] = value
    if cut is not None:
        del content[int(cut * len(content)) :]
    with contextlib.suppress(DataError, UnsafeFormatError):
        read(bytes(content), tmp_path)
