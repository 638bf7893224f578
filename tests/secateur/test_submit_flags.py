"""Budgets and evaluations from the flags of the command line."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from secateur.cli.specs import override

FLAGS: dict[str, Any] = dict.fromkeys(("epochs", "retrain", "seed", "replicates"))
FLAGS["evaluation"] = ()


def write(flags: dict[str, Any]) -> dict[str, Any]:
    """The spec of these flags for a model and a dataset."""
    spec = {"model": "mdl_00000000", "dataset": "builtin:digits", "budgets": {}, "criterion": ()}
    return override({}, **(FLAGS | spec | flags))


def read(budgets: dict[str, tuple[str, ...]], sparsity: tuple[float, ...] = ()) -> Any:
    return write({"budgets": budgets, "sparsity": sparsity})["targets"]


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
        ("max_error_increase", "0.01", 0.01),
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


@pytest.mark.parametrize(
    ("names", "evaluations"),
    [
        (("accuracy", "bounds"), [{"name": "accuracy"}, {"name": "bounds"}]),
        (("all",), "all"),
    ],
)
def test_evaluations_are_some_by_name_or_all(names: tuple[str, ...], evaluations: Any) -> None:
    spec = write({"sparsity": (0.5,)} | {"evaluation": names})
    assert spec["evaluations"] == evaluations


def test_all_evaluations_and_one_by_name_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="leave the others out"):
        write({"sparsity": (0.5,), "evaluation": ("all", "bounds")})
