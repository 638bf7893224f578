"""Requests, refusals and retries, on both clients."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec
from secateur import (
    ApiError,
    AsyncClient,
    AuthError,
    Client,
    ConnectionFailed,
    InvalidIdentifier,
    JobCancelled,
    JobFailed,
    Policy,
    WaitTimeout,
)
from secateur.errors import retry_after
from tests.support.imitation import Answer, Imitation, family_results, job, member, problem


def refuse_for(seconds: int, status: int = 503, code: str = "busy") -> Answer:
    """Return a refusal that asks the client to come again after so many seconds."""
    answer = problem(status, code)
    answer.headers["Retry-After"] = str(seconds)
    return answer


BUSY = refuse_for(7)
SPEC = {
    "type": "prune",
    "model": {"id": "mdl_12345678"},
    "dataset": {"builtin": "digits"},
    "targets": {"sparsity": [0.5]},
}


def test_key_and_agent_are_sent(service: Imitation, client: Client) -> None:
    service.on("GET /healthz", {"status": "ok"})
    assert client.health() == {"status": "ok"}
    headers = service.calls[0].headers
    assert headers["authorization"] == "Bearer key"
    assert headers["user-agent"].startswith("secateur/")


def test_address_and_key_come_from_the_environment(
    service: Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_URL", service.url + "/")
    monkeypatch.setenv("SECATEUR_API_KEY", "secret")
    service.on("GET /version", {"version": "0.1.0"})
    with Client() as client:
        client.version()
    assert service.calls[0].headers["authorization"] == "Bearer secret"


def test_problem_becomes_an_error(service: Imitation, client: Client) -> None:
    errors = [
        {
            "pointer": "/criterion/name",
            "code": "unknown",
            "message": "no 'magnitud'; did you mean 'magnitude'?",
        }
    ]
    service.on("POST /v1/jobs", problem(422, "unknown_method", "unknown criterion", errors))
    with pytest.raises(ApiError, match="did you mean 'magnitude'") as caught:
        client.jobs.submit(SPEC)
    error = caught.value
    assert (error.status, error.code, error.detail, error.request_id) == (
        422,
        "unknown_method",
        "unknown criterion",
        "req_1",
    )
    assert error.errors[0].pointer == "/criterion/name"
    assert len(service.calls) == 1


@pytest.mark.parametrize("body", [b"<html>Bad gateway", b"[]", b'{"errors": "x"}', b"\xff"])
def test_refusal_without_a_problem_document(
    service: Imitation, client: Client, body: bytes
) -> None:
    service.on("GET /v1/methods", Answer(400, body))
    with pytest.raises(ApiError, match="400 http_400: HTTP 400"):
        client.methods()


@pytest.mark.parametrize("status", [401, 403])
def test_auth_errors(service: Imitation, client: Client, status: int) -> None:
    service.on("GET /v1/methods", problem(status, "no"))
    with pytest.raises(AuthError):
        client.methods()


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"id": 3}'])
def test_answer_of_another_service(service: Imitation, client: Client, body: bytes) -> None:
    service.on("GET /v1/jobs/job_12345678", Answer(200, body))
    with pytest.raises(ApiError, match="is this the address of a secateur service"):
        client.jobs.get("job_12345678")


def test_retries_honour_retry_after(
    service: Imitation, client: Client, sleeps: list[float]
) -> None:
    service.on(
        "GET /v1/methods",
        [BUSY, refuse_for(3, 429, "slow_down"), Answer(200, {})],
    )
    assert client.methods() == {}
    assert sleeps == [7.0, 3.0]


def test_retries_are_bounded(service: Imitation, client: Client, sleeps: list[float]) -> None:
    service.on("GET /v1/methods", problem(503, "busy"))
    with pytest.raises(ApiError, match="503 busy"):
        client.methods()
    assert len(service.calls) == 4
    assert sleeps == sorted(sleeps)


def test_unreasonable_retry_after_is_not_waited_for(
    service: Imitation, client: Client, sleeps: list[float]
) -> None:
    service.on("GET /v1/methods", refuse_for(3600))
    with pytest.raises(ApiError):
        client.methods()
    assert sleeps == []


def test_probes_and_refusals_are_not_retried(service: Imitation, client: Client) -> None:
    service.on("GET /readyz", BUSY)
    service.on("GET /v1/methods", problem(500, "broken"))
    for call in (client.ready, client.methods):
        with pytest.raises(ApiError):
            call()
    assert len(service.calls) == 2


def test_submit_repeats_its_idempotency_key(service: Imitation, client: Client) -> None:
    service.on(
        "POST /v1/jobs", [Answer(202, job("queued"), cut=True), BUSY, Answer(202, job("queued"))]
    )
    assert client.jobs.submit(SPEC).status == "queued"
    keys = [call.headers["idempotency-key"] for call in service.calls]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    client.jobs.submit(SPEC, idempotency_key="mine")
    assert service.calls[-1].headers["idempotency-key"] == "mine"
    client.jobs.submit(SPEC)
    assert service.calls[-1].headers["idempotency-key"] not in (keys[0], "mine")


def test_submit_sends_only_what_a_spec_was_given(service: Imitation, client: Client) -> None:
    service.on("POST /v1/jobs", Answer(202, job("queued")))
    client.jobs.submit(JobSpec.model_validate(SPEC | {"retrain": {"mode": "none"}}))
    assert service.calls[0].json == SPEC | {"retrain": {"mode": "none"}}


FAMILY = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 2}},
    "dataset": {"builtin": "digits"},
    "members": {"depths": [1, 2], "widths": [8.0, 16.0]},
    "max_error": [0.12],
}


def test_a_family_is_submitted_as_given(service: Imitation, client: Client) -> None:
    service.on("POST /v1/jobs", Answer(202, job("queued", type="family")))
    assert client.jobs.submit(FamilySpec.model_validate(FAMILY)).type == "family"
    assert service.calls[0].json == FAMILY


def test_members_of_a_family_are_listed(service: Imitation, client: Client) -> None:
    service.on(
        "GET /v1/jobs",
        [
            Answer(200, {"data": [member(2, "answer")], "has_more": True, "next_cursor": "two"}),
            Answer(200, {"data": [member(1)], "has_more": False, "next_cursor": None}),
        ],
    )
    answer, first = client.jobs.members("job_12345678")
    assert [call.query for call in service.calls] == [
        {"parent": "job_12345678", "limit": "100"},
        {"parent": "job_12345678", "limit": "100", "cursor": "two"},
    ]
    assert answer.member is not None
    assert (answer.parent, answer.member.role, answer.member.max_error) == (
        "job_12345678",
        "answer",
        0.12,
    )
    assert first.member is not None
    assert (first.member.depth, first.member.fraction) == (1.0, 0.25)
    list(client.jobs.list(parent="none"))
    assert service.calls[-1].query == {"parent": "none"}
    for wrong in ("", "none"):
        with pytest.raises(InvalidIdentifier):
            list(client.jobs.members(wrong))


def test_a_family_is_asked_for_one_network(service: Imitation, client: Client) -> None:
    service.on("POST /v1/jobs/job_12345678/predict", {"predictions": []})
    client.jobs.predict("job_12345678", densities=(0.1, 0.05), depth=2, width=16)
    assert service.calls[0].json == {
        "densities": [0.1, 0.05],
        "confidence": 0.9,
        "of": "run",
        "depth": 2,
        "width": 16,
    }
    client.jobs.predict("job_12345678", max_error=0.2, criterion="snip")
    assert service.calls[1].json == {
        "max_error": 0.2,
        "criterion": "snip",
        "confidence": 0.9,
        "of": "run",
    }


def test_results_of_a_family_name_the_job_of_every_checkpoint(
    service: Imitation, client: Client
) -> None:
    counts = {"ended": 1, "paused": 1, "total": 4}
    running = job("running", type="family", progress={"done": 3, "total": 9, "members": counts})
    service.on("GET /v1/jobs/job_12345678", running)
    progress = client.jobs.get("job_12345678").progress
    assert progress is not None
    assert progress.members is not None
    assert (progress.members.ended, progress.members.paused, progress.members.total) == (1, 1, 4)
    service.on("GET /v1/jobs/job_12345678/results", family_results())
    outcome = client.jobs.results("job_12345678")
    assert (outcome.of_family, outcome.recommended, outcome.checkpoints[0].job) == (
        True,
        "magnitude-0.888",
        "job_00000002",
    )


def test_validate_asks_for_an_estimate(service: Imitation, client: Client) -> None:
    service.on("POST /v1/jobs", {"rounds": 3})
    assert client.jobs.validate(SPEC) == {"rounds": 3}
    assert service.calls[0].query == {"validate_only": "true"}


@pytest.mark.parametrize(
    ("verb", "calls"), [("cancel", 4), ("pause", 1), ("resume", 1), ("retry", 1)]
)
def test_only_repeatable_steps_are_repeated(
    service: Imitation, client: Client, verb: str, calls: int
) -> None:
    service.on(f"POST /v1/jobs/job_12345678/{verb}", Answer(202, job("running"), cut=True))
    with pytest.raises(ConnectionFailed):
        getattr(client.jobs, verb)("job_12345678")
    assert len(service.calls) == calls


def test_unreachable_service(sleeps: list[float]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with (
            Client(url, sleep=sleeps.append, policy=Policy(retries=2)) as client,
            pytest.raises(ConnectionFailed, match=rf"{url}.*\(3 attempts\)"),
        ):
            client.jobs.resume("job_12345678")
    assert len(sleeps) == 2


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://[::1"])
def test_address_that_is_none(url: str) -> None:
    with pytest.raises(ConnectionFailed), Client(url) as client:
        client.health()


@pytest.mark.parametrize("identifier", ["", ".", ".."])
def test_identifier_cannot_leave_its_place(client: Client, identifier: str) -> None:
    with pytest.raises(InvalidIdentifier):
        client.models.delete(identifier)


def test_identifier_is_quoted(service: Imitation, client: Client) -> None:
    with pytest.raises(ApiError, match="404"):
        client.jobs.get("a/../b?c")
    assert service.calls[0].path == "/v1/jobs/a%2F..%2Fb%3Fc"


def test_pages_follow_the_cursor(service: Imitation, client: Client) -> None:
    service.on(
        "GET /v1/jobs",
        [
            Answer(
                200,
                {
                    "data": [job(id="job_1"), job(id="job_2")],
                    "has_more": True,
                    "next_cursor": "two",
                },
            ),
            Answer(200, {"data": [job(id="job_3")], "has_more": False, "next_cursor": None}),
        ],
    )
    listing = client.jobs.list(status="succeeded", limit=2)
    assert next(listing).id == "job_1"
    assert len(service.calls) == 1
    assert [each.id for each in listing] == ["job_2", "job_3"]
    assert [call.query for call in service.calls] == [
        {"status": "succeeded", "limit": "2"},
        {"status": "succeeded", "limit": "2", "cursor": "two"},
    ]


def test_wait(service: Imitation, client: Client, sleeps: list[float]) -> None:
    service.on(
        "GET /v1/jobs/job_12345678",
        [Answer(200, job("running")), Answer(200, job("odd")), Answer(200, job())],
    )
    assert client.jobs.wait("job_12345678", interval_s=2).status == "succeeded"
    assert sleeps == [2, 2]


def test_wait_reports_the_end(service: Imitation, client: Client) -> None:
    lost = {"code": "worker_lost", "message": "gone"}
    service.on("GET /v1/jobs/a", job("failed", error=lost))
    service.on("GET /v1/jobs/b", job("cancelled"))
    service.on("GET /v1/jobs/c", job("running"))
    with pytest.raises(JobFailed, match="worker_lost: gone"):
        client.jobs.wait("a")
    with pytest.raises(JobCancelled):
        client.jobs.wait("b")
    with pytest.raises(WaitTimeout):
        client.jobs.wait("c", timeout_s=0)
    assert client.jobs.wait("a", check=False).status == "failed"


def test_fields_of_a_newer_service_are_kept(service: Imitation, client: Client) -> None:
    document = job(queue={"position": 3})
    service.on("GET /v1/jobs/a", document)
    assert client.jobs.get("a").document() == document


def test_async_client_does_the_same(service: Imitation) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def session() -> tuple[str, list[str]]:
        async with AsyncClient(service.url, "key", sleep=sleep) as client:
            submitted = await client.jobs.submit(SPEC)
            return submitted.id, [each.id async for each in client.jobs.list()]

    service.on("POST /v1/jobs", [BUSY, Answer(202, job("queued"))])
    service.on("GET /v1/jobs", {"data": [job(id="job_1")], "has_more": False, "next_cursor": None})
    assert asyncio.run(session()) == ("job_12345678", ["job_1"])
    assert slept == [7.0]


def test_both_clients_offer_the_same(service: Imitation, client: Client) -> None:
    other = AsyncClient(service.url)
    for group in ("models", "datasets", "jobs"):
        assert type(getattr(client, group)) is type(getattr(other, group))
    asyncio.run(other.close())
    assert client.jobs.submit.__doc__ == other.jobs.submit.__doc__ != ""


def test_retry_after_forms() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert retry_after("1.5") == 1.5
    assert 3500 < (retry_after(later) or 0) <= 3600
    assert [retry_after(text) for text in (None, "soon", "nan", "-3")] == [None, None, None, 0.0]


def test_redirect_to_another_host_does_not_carry_the_key() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "here":
            return httpx2.Response(307, headers={"Location": "http://there/report"})
        seen.update(request.headers)
        return httpx2.Response(200, content=b"report")

    seen: dict[str, Any] = {}
    with Client("http://here", "key", transport=httpx2.MockTransport(answer)) as client:
        assert client.jobs.report("a", format="md") == b"report"
    assert "authorization" not in seen
