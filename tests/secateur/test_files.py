"""Uploads in constant memory, downloads whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from secateur import ApiError, AsyncClient, ChecksumMismatch, Client, ConnectionFailed
from tests.support.imitation import WEIGHTS, Answer, Call, Imitation, part, problem

DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
CHECKPOINT = "GET /v1/jobs/job_12345678/checkpoints/c"


def weights(etag: str | None = f'"{DIGEST}"', *, cut: bool = False) -> Answer:
    return Answer(200, WEIGHTS, {"ETag": etag} if etag else {}, cut=cut)


def test_model_upload(service: Imitation, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(WEIGHTS)
    service.on("POST /v1/models", Answer(201, {"id": "mdl_12345678", "state": "ready"}))
    model = client.models.upload(
        file,
        "mlp",
        kwargs={"width": 3},
        name="mine",
        classes=["a", "b"],
        normalize={"mean": (0.5,), "std": [0.25]},
    )
    assert model.id == "mdl_12345678"
    call = service.calls[0]
    assert part(call, "architecture") == "mlp"
    assert part(call, "name") == "mine"
    assert json.loads(part(call, "kwargs")) == {"width": 3}
    assert json.loads(part(call, "classes")) == ["a", "b"]
    assert json.loads(part(call, "normalize")) == {"mean": [0.5], "std": [0.25]}
    assert part(call, "sha256") == DIGEST
    assert b'filename="net.safetensors"' in call.body
    assert WEIGHTS in call.body


def test_upload_needs_constant_memory(service: Imitation, client: Client, tmp_path: Path) -> None:
    file, size = tmp_path / "data.zip", 64 * 2**20
    with file.open("wb") as sparse:
        sparse.truncate(size)

    def answer(call: Call) -> Answer:
        return Answer(201, {"id": "dst_12345678"})

    service.on("POST /v1/datasets", answer)
    tracemalloc.start()
    client.datasets.upload(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert service.calls[0].size > size
    assert peak < size / 16


def test_refused_upload_starts_from_the_beginning(
    service: Imitation, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(WEIGHTS)
    service.on("POST /v1/datasets", [problem(429, "busy"), Answer(201, {"id": "dst_12345678"})])
    client.datasets.upload(file)
    assert [WEIGHTS in call.body for call in service.calls] == [True, True]


def test_cut_upload_is_not_repeated(service: Imitation, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(WEIGHTS)
    service.on("POST /v1/datasets", Answer(201, {}, cut=True))
    with pytest.raises(ConnectionFailed):
        client.datasets.upload(file)
    assert len(service.calls) == 1


def test_download(service: Imitation, client: Client, tmp_path: Path) -> None:
    service.on(CHECKPOINT, weights())
    target = tmp_path / "c.safetensors"
    target.write_bytes(b"older")
    assert (
        client.jobs.download("job_12345678", "c", target, format="dense", sha256=DIGEST.upper())
        == target
    )
    assert target.read_bytes() == WEIGHTS
    assert service.calls[0].query == {"format": "dense"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("etag", "sha256", "message"),
    [
        ('"' + 64 * "0" + '"', None, "announced 0000"),
        (f'"{DIGEST}"', 64 * "1", "announced 1111"),
        ('"' + 64 * "0" + '"', DIGEST, "announced 0000"),
        (None, None, "named no SHA-256"),
        ('"v1"', None, "named no SHA-256"),
    ],
)
def test_checksum_mismatch_leaves_no_file(
    service: Imitation,
    client: Client,
    tmp_path: Path,
    etag: str | None,
    sha256: str | None,
    message: str,
) -> None:
    service.on(CHECKPOINT, weights(etag))
    with pytest.raises(ChecksumMismatch, match=message):
        client.jobs.download("job_12345678", "c", tmp_path / "c.safetensors", sha256=sha256)
    assert list(tmp_path.iterdir()) == []


def test_cut_download_is_repeated(service: Imitation, client: Client, tmp_path: Path) -> None:
    service.on(CHECKPOINT, [weights(cut=True), problem(503, "busy"), weights(f'W/"{DIGEST}"')])
    client.jobs.download("job_12345678", "c", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == WEIGHTS
    assert len(list(tmp_path.iterdir())) == 1


def test_refused_download_leaves_no_file(
    service: Imitation, client: Client, tmp_path: Path
) -> None:
    service.on(CHECKPOINT, problem(410, "expired"))
    with pytest.raises(ApiError, match="410 expired"):
        client.jobs.download("job_12345678", "c", tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_async_upload_and_download(service: Imitation, tmp_path: Path) -> None:
    async def session() -> None:
        async with AsyncClient(service.url) as client:
            path = await client.jobs.download("job_12345678", "c", tmp_path / "c")
            await client.models.upload(path, "mlp")
            with pytest.raises(ApiError, match="404"):
                await client.jobs.download("job_12345678", "d", tmp_path / "d")

    service.on(CHECKPOINT, weights())
    service.on("POST /v1/models", Answer(201, {"id": "mdl_12345678"}))
    asyncio.run(session())
    assert part(service.calls[1], "sha256") == DIGEST
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
