"""What every schedule must keep."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.schedules import schedules
from tests.support.registries import list_corners

fast = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", schedules.names())
@fast
@given(data=st.data())
def test_schedule_falls_strictly_to_exactly_the_target(name: str, data: st.DataObject) -> None:
    start = data.draw(st.one_of(st.just(1.0), st.floats(1e-4, 1.0)))
    target = data.draw(
        st.one_of(
            st.floats(1e-6, start, exclude_max=True),
            st.just(math.nextafter(start, 0)),
            st.just(start * (1 - 1e-12)),
        )
    )
    params = data.draw(st.sampled_from(list_corners(schedules, name)))
    densities = list(schedules.create(name, params).densities(start, target))
    assert densities[-1] == target
    assert all(
        later < earlier for earlier, later in zip([start, *densities], densities, strict=False)
    )
    assert len(densities) <= 20_000
