"""`kill -9` in the middle of an epoch over images that are read from the disk.

The resulting bytes are those of an undisturbed run with all images in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.job_world import Chaos, World, history
from tests.support.photo_world import make_files, read_files

SPEC: dict[str, Any] = {
    "model": {
        "architecture": "mlp",
        "kwargs": {"hidden": [8]},
        "train": {"epochs": 2, "batch_size": 4, "optimizer": {"lr": 0.01}},
    },
    "targets": {"sparsity": [0.5, 0.75]},
    "retrain": {"epochs": 1, "batch_size": 4},
}


@pytest.mark.slow
def test_kills_in_the_middle_of_epochs_over_stored_photos(
    world: World, chaos: Chaos, tmp_path: Path
) -> None:
    arrays = read_files(make_files(), tmp_path)
    preprocessing = {"resize": 28, "crop": 24}

    def submit() -> str:
        id = world.store_dataset(arrays)
        return world.submit_on(id, SPEC, preprocessing=preprocessing)

    undisturbed = submit()
    assert world.runner().run(undisturbed)
    world.assert_succeeded_once(undisturbed)
    # A training has 6 steps an epoch and saves after every second one.
    assert chaos.saves[:4] == ["rewind", *3 * ["dense.partial"]]
    assert chaos.saves.count("dense.partial") == 6
    (chaos.folder / "saves").unlink()
    chaos.plan(at_2="kill", before_3="kill", at_6="kill")
    disturbed = submit()
    world.settle_all(disturbed, runner=world.runner(job_data_bytes=1))
    world.assert_succeeded_once(disturbed)
    events = history(world.store, disturbed)
    kills = [event.data["reason"] for event in events if event.type == "attempt"]
    assert len(kills) == 3, (kills, chaos.saves)
    assert all("SIGKILL" in reason for reason in kills)
    warnings = [event.data["message"] for event in events if event.type == "warning"]
    assert any("are read from the disk" in text for text in warnings)
    assert world.checkpoints(disturbed) == world.checkpoints(undisturbed)
