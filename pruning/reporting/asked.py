"""Targets in words: the sparsity, the budget or the limit on the error that was asked for, and what
was reached.
"""

from __future__ import annotations

from pruning import wording
from pruning.schemas.recipe import UPLOADED
from pruning.schemas.report import Checkpoint, Report
from pruning.schemas.targets import Requested, RequestedBudget, RequestedIncrease


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
    """Return what was asked for in words: `90 % sparsity`, `50 % of the FLOPs`; of a limit on the
    error what was found, of a network that was pruned elsewhere its name.
    """
    if isinstance(checkpoint.requested, RequestedIncrease):
        reached = f"{wording.short_percent(checkpoint.removal)} sparsity"
        return f"{reached} (asked: {describe_budget(checkpoint.requested)})"
    if checkpoint.requested is not None:
        return describe_budget(checkpoint.requested)
    if is_uploaded(checkpoint):
        return f"{checkpoint.id} ({wording.short_percent(checkpoint.sparsity)} sparse)"
    return f"{wording.short_percent(checkpoint.removal)} sparsity"


def describe_state(checkpoint: Checkpoint) -> str:
    """Return what the network is: `90 % sparse`, `50 % of the FLOPs`."""
    if isinstance(checkpoint.requested, RequestedIncrease):
        return f"{wording.short_percent(checkpoint.removal)} sparse"
    if checkpoint.requested is not None:
        return describe_budget(checkpoint.requested)
    sparsity = checkpoint.sparsity if is_uploaded(checkpoint) else checkpoint.removal
    return f"{wording.short_percent(sparsity)} sparse"


def describe_budget(budget: Requested) -> str:
    """Return a budget, or a limit on the error, as it was asked for.

    >>> half = RequestedBudget(quantity="flops", value=0.5, limit=50, reached=49, dense=100)
    >>> describe_budget(half)
    '50 % of the FLOPs'
    >>> describe_budget(half.model_copy(update={"quantity": "size_bytes", "value": 4_000_000}))
    '4.00 MB'
    >>> limit = RequestedIncrease(
    ...     quantity="max_error_increase",
    ...     value=0.01,
    ...     reached=0.004,
    ...     removal=0.8,
    ...     next_sparsity=0.83,
    ...     tried=5,
    ... )
    >>> describe_budget(limit)
    'at most 1 pp more error on validation'
    """
    if isinstance(budget, RequestedIncrease):
        return f"at most {100 * budget.value:g} pp more error on validation"
    if budget.value < 1:
        noun = "size" if budget.quantity == "size_bytes" else budget.noun
        return f"{wording.short_percent(budget.value)} of the {noun}"
    return _format_amount(budget, budget.value)


def describe_reached(budget: Requested) -> str:
    """Return a budget and what was reached, as a share of the dense network and as a number; of a
    limit on the error the increase, and where the search ended.

    >>> half = RequestedBudget(
    ...     quantity="flops", value=0.5, limit=40_551_040, reached=40_390_000, dense=81_102_080
    ... )
    >>> describe_reached(half)
    '50 % of the FLOPs asked: 0.498 reached (40.4 MFLOP)'
    """
    if isinstance(budget, RequestedIncrease):
        end = "the sparsest that the search tries"
        if budget.next_sparsity is not None:
            end = f"at {wording.short_percent(budget.next_sparsity)} it is beyond"
        return (
            f"{describe_budget(budget)} asked: {_describe_share(budget)} at "
            f"{wording.short_percent(budget.removal)} sparsity ({end}; {budget.tried} tried)"
        )
    amount = _format_amount(budget, budget.reached)
    return f"{describe_budget(budget)} asked: {_describe_share(budget)} ({amount})"


def _describe_share(budget: Requested) -> str:
    if isinstance(budget, RequestedIncrease):
        return f"{100 * budget.reached:+.2f} pp reached"
    return f"{budget.reached / budget.dense:.3g} reached"


def _format_amount(budget: RequestedBudget, amount: float) -> str:
    if budget.quantity == "size_bytes":
        return wording.file_size(amount)
    if budget.quantity == "flops":
        return wording.operations(amount)
    return f"{wording.count(round(amount))} parameters"
