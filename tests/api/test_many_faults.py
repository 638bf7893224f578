"""Bodies with very many faults or values: refused in little time, and in few words."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import BaseModel, ValidationError

from api.http.pointers import list_faults
from tests.support.api_world import SPEC, World, fault


def test_of_very_many_faults_the_first_are_listed(world: World) -> None:
    spec = {**SPEC, "exclude": [1] * 900, "criterion": [1] * 8000 + [{"name": 5}] * 4000}
    response = world.client.post("/v1/jobs", json=spec)
    body = response.json()
    assert (response.status_code, body["code"]) == (422, "invalid_request")
    assert len(body["errors"]) == 20
    assert "of which the first 20 are listed" in body["detail"]
    assert len(response.content) < 20_000


def test_a_long_value_is_not_said_again_as_a_whole(world: World) -> None:
    spec = {**SPEC, "criterion": {"name": "magnitude", "params": {"p" * 100_000: 1}}}
    response = world.client.post("/v1/jobs", json=spec)
    assert response.status_code == 422
    assert response.json()["errors"][0]["message"].endswith("…")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"labels": [0] * 50_001}, "more than 50,000 values"),
        ({str(number): [{}] for number in range(26_000)}, "more than 50,000 values"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ('{"a\\u0000": 1}', "a string holds U\\+0000"),
        ('[["\\ud800"]]', "half of a surrogate pair"),
    ],
)
def test_a_body_that_takes_too_long_to_check_is_refused(
    world: World, body: object, reason: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    response = world.client.post(
        "/v1/jobs", content=text, headers={"Content-Type": "application/json"}
    )
    assert re.search(reason, fault(response, 400, "invalid_json")["detail"])


def test_a_fault_hides_what_only_follows_from_it_and_no_neighbour() -> None:
    class Inner(BaseModel):
        name: str

    class Outer(BaseModel):
        first: list[Inner | list[int]]
        first_more: list[int]

    body = {"first": [{"name": 5}], "first_more": "x"}
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(body)
    places = [listed.pointer for listed in list_faults(error.value, body)]
    assert places == ["/first/0/name", "/first_more"]
