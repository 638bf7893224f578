"""Budgets from the flags of the command line."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from secateur.cli.specs import override

FLAGS: dict[str, Any] = dict.fromkeys(("epochs", "retrain", "seed", "replicates"))


def read(budgets: dict[str, tuple[str, ...]], sparsity: tuple[float, ...] = ()) -> Any:
    spec = override(
        {},
        model="mdl_00000000",
        dataset="builtin:digits",
        sparsity=sparsity,
        budgets=budgets,
        criterion=(),
        **FLAGS,
    )
    return spec["targets"]


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        ("flops", "0.5", 0.5),
        ("flops", "40 M", 40_000_000),
        ("parameters", "100000", 100_000),
        ("size_bytes", "4MB", 4_000_000),
        ("size_bytes", "1.5kB", 1500),
        ("size_bytes", "4.1MB", 4_100_000),
        ("size_bytes", "8.2 GB", 8_200_000_000),
    ],
)
def test_a_flag_becomes_a_budget(quantity: str, text: str, value: float) -> None:
    assert read({quantity: (text,)}) == {quantity: [value]}


def test_targets_of_two_kinds_and_nonsense_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="of one kind"):
        read({"flops": ("0.5",)}, (0.5,))
    with pytest.raises(typer.BadParameter, match="--size much: give a share"):
        read({"size_bytes": ("much",)})
    with pytest.raises(
        typer.BadParameter, match=r"--flops 2\.7: an amount above 1 is a whole number"
    ):
        read({"flops": ("2.7",)})
