"""Datasets that the service fetches, from the client and the command line."""

from __future__ import annotations

from collections.abc import Callable

from secateur import Client
from tests.support.imitation import Answer, Imitation


def test_a_dataset_is_fetched_by_the_service(service: Imitation, client: Client) -> None:
    fetching = {"id": "dst_12345678", "state": "fetching", "error": None}
    service.on("POST /v1/datasets/fetch", Answer(202, fetching))
    dataset = client.datasets.fetch("s3://bucket/photos.zip", 64 * "0", classes=["cat", "dog"])
    assert (dataset.id, dataset.state) == ("dst_12345678", "fetching")
    assert service.calls[0].json == {
        "url": "s3://bucket/photos.zip",
        "sha256": 64 * "0",
        "classes": ["cat", "dog"],
    }


def test_the_command_line_has_a_dataset_fetched(
    service: Imitation, run: Callable[..., tuple[int, str, str]]
) -> None:
    service.on("POST /v1/datasets/fetch", Answer(202, {"id": "dst_1", "state": "fetching"}))
    code, out, _ = run("datasets", "fetch", "https://example.org/x.zip", "--sha256", 64 * "0")
    assert code == 0
    assert "fetching" in out
    assert service.calls[0].json == {"url": "https://example.org/x.zip", "sha256": 64 * "0"}
