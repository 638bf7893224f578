"""A small HTTP server that imitates the service contract, in a thread."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Handler = Callable[["Call"], "Answer"]
WEIGHTS = b"weights" * 1000


@dataclass
class Call:
    """A request as it arrived; an upload is counted and hashed, not kept."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    size: int
    sha256: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """An answer to send; `cut` closes the connection in the middle of the body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


def problem(
    status: int,
    code: str,
    detail: str = "",
    errors: list[dict[str, str]] | None = None,
    **headers: str,
) -> Answer:
    document = {
        "type": "about:blank",
        "title": code.replace("_", " "),
        "status": status,
        "code": code,
        "detail": detail,
        "errors": errors or [],
        "request_id": "req_1",
    }
    return Answer(status, document, {"Content-Type": "application/problem+json", **headers})


def sse(*rows: dict[str, Any], cut: bool = False) -> Answer:
    text = ": heartbeat\n\n" + "".join(
        f"event: {row['type']}\nid: {row['seq']}\ndata: {json.dumps(row)}\n\n" for row in rows
    )
    return Answer(200, text.encode(), {"Content-Type": "text/event-stream"}, cut=cut)


def row(seq: int, type: str, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "at": "2026-01-01T00:00:00Z", "type": type, "data": data}


def job(status: str = "succeeded", **more: Any) -> dict[str, Any]:
    return {
        "id": "job_12345678",
        "status": status,
        "stage": None,
        "terminal": status in ("succeeded", "failed", "cancelled"),
        "progress": None,
        "attempt": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "spec": {},
        "error": None,
        "links": {},
        **more,
    }


def results(
    *,
    passed: bool = True,
    status: str = "succeeded",
    sha256: str | None = None,
    outcome: str | None = None,
) -> dict[str, Any]:
    digest = sha256 or hashlib.sha256(WEIGHTS).hexdigest()
    increase = {"value": 0.013, "low": 0.001, "high": 0.025, "n": 360}
    checkpoint = {
        "id": "magnitude-0.8",
        "criterion": {"name": "magnitude", "params": {}},
        "requested_sparsity": 0.8,
        "sparsity": 0.8001,
        "density": 0.1999,
        "error": {"value": 0.05, "low": 0.03, "high": 0.07, "n": 360},
        "size_bytes": {"sparse": 7000, "dense": 30000},
        "sha256": {"sparse": digest},
        "formats": ["sparse", "dense", "masks"],
        "links": {"sparse": "/v1/jobs/job_12345678/checkpoints/x"},
    }
    gate = {
        "name": "max_error_increase",
        "limit": 0.01,
        "checkpoint": "magnitude-0.8",
        "measured": increase,
        "passed": passed,
        "message": "increase 0.013, limit 0.01",
    }
    if outcome is not None:  # services of earlier versions know two outcomes
        gate |= {"outcome": outcome, "passed": outcome == "passed"}
    return {
        "job": job(status),
        "checkpoints": [checkpoint],
        "gates": [gate],
        "report": {
            "checkpoints": [
                {"id": "magnitude-0.8", "error_increase": {"given": increase, "control": increase}}
            ]
        },
        "recommendation": {
            "checkpoint": "magnitude-0.8",
            "sparsity": 0.8,
            "margin": 0.01,
            "reason": "Within margin.",
        },
    }


def member(number: int, role: str = "member", **more: Any) -> dict[str, Any]:
    place = {
        "role": role,
        "depth": 1.0,
        "width": 8.0,
        "fraction": 0.25,
        "seed": 0,
        "rounds": 10,
        "density": 0.0282,
        "max_error": 0.12 if role == "answer" else None,
    }
    return job(id=f"job_0000000{number}", type="prune", parent="job_12345678", member=place, **more)


def family_results(status: str = "succeeded", **answer: Any) -> dict[str, Any]:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    trained = "job_00000002"
    answered = {
        "max_error": 0.12,
        "depth": 3.0,
        "width": 8.0,
        "density": 0.112,
        "rounds": 10,
        "parameters": 114.6,
        "unpruned_parameters": 754,
        "predicted": {"value": 0.12, "low": 0.1145, "high": 0.1262, "n": 180},
        "extrapolated": False,
        "notes": [],
        "refused": "",
        "job": trained,
        "status": "succeeded",
        "measured": {"value": 0.1208, "low": 0.1147, "high": 0.1268, "n": 2000},
        "measured_parameters": 114,
        "within_band": True,
        "meets": False,
        "checkpoint": "magnitude-0.888",
        **answer,
    }
    refused = {
        "max_error": 0.01,
        "refused": "no network gets there",
        "job": None,
        "status": None,
        "within_band": None,
    }
    members = [
        {"job": "job_00000001", "status": "succeeded"},
        {"job": "job_00000003", "status": "failed"},
    ]
    checkpoint = results()["checkpoints"][0] | {
        "id": "magnitude-0.888",
        "job": trained,
        "sha256": {"sparse": digest},
    }
    return {
        "job": job(status, type="family"),
        "gates": [],
        "checkpoints": [checkpoint],
        "report": {
            "type": "family",
            "members": members,
            "answers": [answered, refused],
            "failures": [{"name": "depth2", "code": "member_failed", "message": "out of memory"}],
        },
        "recommendation": {
            "job": trained,
            "checkpoint": "magnitude-0.888",
            "reason": "Few enough.",
        },
    }


class Imitation:
    """A server that answers by route: with a handler, always the same, or with a list of answers in
    turn, of which the last stays.
    """

    def __init__(self) -> None:
        self.routes: dict[str, Handler | Answer | list[Answer]] = {}
        self.calls: list[Call] = []
        imitation = self

        class Door(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                imitation.serve(self)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def on(self, route: str, answer: Handler | Answer | list[Answer] | dict[str, Any]) -> None:
        self.routes[route] = Answer(200, answer) if isinstance(answer, dict) else answer

    def seen(self, route: str) -> list[Call]:
        return [call for call in self.calls if f"{call.method} {call.path}" == route]

    def serve(self, door: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(door.path)
        size = int(door.headers.get("Content-Length", 0))
        kept = bytearray()
        digest = hashlib.sha256()
        for chunk in _read_chunks(door, size):
            kept += chunk[: max(0, 100_000 - len(kept))]
            digest.update(chunk)
        call = Call(
            door.command,
            parts.path,
            {name: values[-1] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in door.headers.items()},
            bytes(kept),
            size,
            digest.hexdigest(),
        )
        self.calls.append(call)
        plan = self.routes.get(
            f"{call.method} {call.path}", problem(404, "not_found", f"no {call.path}")
        )
        if isinstance(plan, list):
            plan = plan.pop(0) if len(plan) > 1 else plan[0]
        answer = plan if isinstance(plan, Answer) else plan(call)
        body = _encode_body(answer.body)
        door.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            door.send_header(name, value)
        door.send_header("Content-Length", str(len(body) + 1000 * answer.cut))
        door.end_headers()
        door.wfile.write(body)


def _encode_body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return b"" if body is None else json.dumps(body).encode()


def _read_chunks(door: BaseHTTPRequestHandler, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := door.rfile.read(min(size, 65536))):
        size -= len(chunk)
        yield chunk


def part(call: Call, name: str) -> str:
    """Return a field of a multipart body."""
    field_match = re.search(
        rb'name="' + name.encode() + rb'"\r\n\r\n(.*?)\r\n--', call.body, re.DOTALL
    )
    assert field_match, f"no field {name}"
    return field_match[1].decode()
