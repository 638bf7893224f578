"""Datasets as folders: packed, uploaded, submitted with a job, and checked where they lie."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import pytest

from secateur import AsyncClient, Client, UnreadableFolder
from secateur.folders import pack_folder, pack_network
from tests.support.commands import FLAGS, Run
from tests.support.imitation import Answer, Call, Imitation, part
from tests.support.uploaded_files import encoded, folder, picture


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that is this test's alone."""
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    return own


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images with what systems leave behind."""
    target = tmp_path / "pets"
    for name, content in {**folder(), ".git/x": b"x", "train/Thumbs.db": b"x"}.items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return target


def unpacked(call: Call) -> dict[str, bytes]:
    """Unpack the zip that a request carries."""
    start = call.body.index(b"PK\x03\x04")
    with zipfile.ZipFile(io.BytesIO(call.body[start : call.body.rindex(b"\r\n--")])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_same_files_make_the_same_zip(pets: Path, tmp_path: Path) -> None:
    first = pack_folder(pets)
    assert first.name == "pets.zip"
    for file in sorted(pets.rglob("*.png"), reverse=True):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        os.utime(file, (1, 1))
    assert pack_folder(pets).read_bytes() == first.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == sorted(folder())


def test_links_are_followed_and_end(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.png").write_bytes(encoded(picture(9)))
    (pets / "train" / "c").symlink_to(tmp_path / "more")
    (pets / "train" / "again").symlink_to(pets)
    with zipfile.ZipFile(pack_folder(pets)) as archive:
        assert set(archive.namelist()) == {*folder(), "train/c/9.png"}


def test_folders_that_cannot_be_packed_leave_nothing(tmp_path: Path, temporary: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UnreadableFolder, match="no files in this folder"):
        pack_folder(empty)
    (empty / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(UnreadableFolder, match="not UTF-8; rename it"):
        pack_folder(empty)
    assert list(temporary.iterdir()) == []


def test_a_folder_is_uploaded_as_a_zip(
    service: Imitation, client: Client, pets: Path, temporary: Path
) -> None:
    service.on("POST /v1/datasets", Answer(201, {"id": "dst_12345678"}))
    assert client.datasets.upload(pets, classes=["a", "b"]).id == "dst_12345678"
    call = service.calls[0]
    assert b'filename="pets.zip"' in call.body
    assert json.loads(part(call, "classes")) == ["a", "b"]
    assert unpacked(call) == folder()

    async def upload() -> str:
        async with AsyncClient(service.url) as other:
            return (await other.datasets.upload(str(pets))).id

    assert asyncio.run(upload()) == "dst_12345678"
    assert unpacked(service.calls[1]) == folder()
    assert list(temporary.iterdir()) == []


def test_a_job_takes_a_folder(finished: Imitation, run: Run, pets: Path) -> None:
    at = FLAGS.index("--dataset")
    flags = [*FLAGS[:at], *FLAGS[at + 2 :], "--dataset", str(pets)]
    code, _, err = run("jobs", "submit", *flags)
    assert code == 0
    assert "uploaded dst_12345678" in err
    assert unpacked(finished.seen("POST /v1/datasets")[-1]) == folder()
    assert finished.seen("POST /v1/jobs")[-1].json["dataset"] == {"id": "dst_12345678"}


def test_a_dataset_is_checked_where_it_lies(run: Run, pets: Path, temporary: Path) -> None:
    code, out, _ = run("datasets", "check", str(pets), "--json")
    assert code == 0
    assert json.loads(out)["counts"] == {"train": 4, "val": 0, "test": 2}
    assert json.loads(out)["classes"] == ["a", "b"]
    (pets / "train/a/7.jpg").write_bytes(b"x")
    (pets / "test/a/8.jpg").write_bytes(b"x")
    code, out, err = run("datasets", "check", str(pets), "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "invalid_dataset"
    assert "2 files cannot be used: train/a/7.jpg: not a readable image" in " ".join(err.split())
    assert list(temporary.iterdir()) == []
    assert run("datasets", "check", str(pets / "none"))[0] == 2


def test_a_check_has_the_limits_of_the_service(
    run: Run, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_MAX_PIXELS", "100")
    code, _, err = run("datasets", "check", str(pets))
    assert (code, "at most 100 are accepted" in err) == (1, True)
    monkeypatch.setenv("SECATEUR_MAX_UPLOAD_BYTES", "10")
    assert "at most 10 are accepted" in run("datasets", "check", str(pets))[2]


def test_of_a_network_the_files_that_are_read_are_packed(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "modeling_mine.py", "optimizer.pt"):
        (tmp_path / name).write_bytes(b"{}")
    with zipfile.ZipFile(pack_network(tmp_path)) as archive:
        assert archive.namelist() == ["config.json", "model.safetensors"]
    (tmp_path / "config.json").unlink()
    with pytest.raises(UnreadableFolder, match=r"no config\.json"):
        pack_network(tmp_path)
