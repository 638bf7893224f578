"""Targets in words: the sparsity or the budget that was asked for, and what was reached."""

from __future__ import annotations

from pruning import wording
from pruning.schemas.recipe import UPLOADED
from pruning.schemas.report import Checkpoint, Report
from pruning.schemas.targets import RequestedBudget


def name_column(report: Report) -> str:
    """Return the heading of the column of targets."""
    if any(checkpoint.requested is not None for checkpoint in report.checkpoints):
        return "Asked"
    judged = any(is_uploaded(checkpoint) for checkpoint in report.checkpoints)
    return "Sparsity, to a percent" if judged else "Sparsity asked"


def is_uploaded(checkpoint: Checkpoint) -> bool:
    """Return whether a network was pruned elsewhere."""
    return checkpoint.criterion.name == UPLOADED


def describe_cell(checkpoint: Checkpoint) -> str:
    """Return what was asked for, and of a budget what was reached."""
    if checkpoint.requested is None:
        return wording.short_percent(checkpoint.removal)
    return f"{describe_budget(checkpoint.requested)}; {_describe_share(checkpoint.requested)}"


def describe_target(checkpoint: Checkpoint) -> str:
    """Return what was asked for in words: `90 % sparsity`, `50 % of the FLOPs`; of a network that
    was pruned elsewhere its name.
    """
    if checkpoint.requested is not None:
        return describe_budget(checkpoint.requested)
    if is_uploaded(checkpoint):
        return f"{checkpoint.id} ({wording.short_percent(checkpoint.sparsity)} sparse)"
    return f"{wording.short_percent(checkpoint.removal)} sparsity"


def describe_state(checkpoint: Checkpoint) -> str:
    """Return what the network is: `90 % sparse`, `50 % of the FLOPs`."""
    if checkpoint.requested is not None:
        return describe_budget(checkpoint.requested)
    sparsity = checkpoint.sparsity if is_uploaded(checkpoint) else checkpoint.removal
    return f"{wording.short_percent(sparsity)} sparse"


def describe_budget(budget: RequestedBudget) -> str:
    """Return a budget as it was asked for.

    >>> half = RequestedBudget(quantity="flops", value=0.5, limit=50, reached=49, dense=100)
    >>> describe_budget(half)
    '50 % of the FLOPs'
    >>> describe_budget(half.model_copy(update={"quantity": "size_bytes", "value": 4_000_000}))
    '4.00 MB'
    """
    if budget.value < 1:
        noun = "size" if budget.quantity == "size_bytes" else budget.noun
        return f"{wording.short_percent(budget.value)} of the {noun}"
    return _format_amount(budget, budget.value)


def describe_reached(budget: RequestedBudget) -> str:
    """Return a budget and what was reached, as a share of the dense network and as a number.

    >>> half = RequestedBudget(
    ...     quantity="flops", value=0.5, limit=40_551_040, reached=40_390_000, dense=81_102_080
    ... )
    >>> describe_reached(half)
    '50 % of the FLOPs asked: 0.498 reached (40.4 MFLOP)'
    """
    amount = _format_amount(budget, budget.reached)
    return f"{describe_budget(budget)} asked: {_describe_share(budget)} ({amount})"


def _describe_share(budget: RequestedBudget) -> str:
    return f"{budget.reached / budget.dense:.3g} reached"


def _format_amount(budget: RequestedBudget, amount: float) -> str:
    if budget.quantity == "size_bytes":
        return wording.file_size(amount)
    if budget.quantity == "flops":
        return wording.operations(amount)
    return f"{wording.count(round(amount))} parameters"
