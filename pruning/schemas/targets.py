"""The targets of a pruning job: sparsities, budgets of what it costs, or limits on the error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from pruning.schemas.base import Document

Quantity: TypeAlias = Literal["sparsity", "flops", "parameters", "size_bytes", "max_error_increase"]
"""A quantity that targets are told in."""
QUANTITIES: tuple[Quantity, ...] = (
    "sparsity",
    "flops",
    "parameters",
    "size_bytes",
    "max_error_increase",
)
Sparsity = Annotated[float, Field(gt=0, lt=1)]
NOUNS: Mapping[Quantity, str] = {
    "sparsity": "prunable weights",
    "flops": "FLOPs",
    "parameters": "parameters",
    "size_bytes": "bytes",
    "max_error_increase": "prunable weights",
}
"""The name of what each quantity counts, as people read it."""
LARGEST = 10**15
"""The largest budget that is told as a number: a float64 still holds it exactly."""


def _read_budget(value: float) -> float:
    """A share below 1 as it is, a whole number as an int; `ValueError` for what is neither."""
    if 0 < value < 1:
        return value
    if 2 <= value <= LARGEST and int(value) == value:
        return int(value)
    raise ValueError(
        "a budget is a share of the dense network's cost, 0 < x < 1, or a whole number from 2 to "
        f"{LARGEST:,}"
    )


Budget = Annotated[
    int | float,
    AfterValidator(_read_budget),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": "integer", "minimum": 2, "maximum": LARGEST},
            ]
        }
    ),
]
Budgets = Annotated[tuple[Budget, ...], Field(min_length=1, max_length=64)]
MOST_LIMITS = 4
"""The most limits on the error of one job: for each is a search."""


def _read_limits(value: Any) -> Any:
    """A list of one for a single number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (value,) if is_number else value


def _check_limits(values: tuple[float, ...]) -> tuple[float, ...]:
    """The limits as they are; `ValueError` for what is no fraction."""
    for value in values:
        if not 0 <= value < 1:
            raise ValueError(
                f"{value:g} is no limit on the error, which is a fraction, 0 <= x < 1: one point "
                "of accuracy is 0.01"
            )
    return values


_LIMIT = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
Limits = Annotated[
    tuple[float, ...],
    Field(min_length=1, max_length=MOST_LIMITS),
    AfterValidator(_check_limits),
    BeforeValidator(_read_limits),
    WithJsonSchema(
        {
            "anyOf": [
                _LIMIT,
                {"type": "array", "items": _LIMIT, "minItems": 1, "maxItems": MOST_LIMITS},
            ]
        }
    ),
]


def _is_open(value: object) -> bool:
    return value is None


def find_limit(share: float, dense: int) -> int:
    """Find the largest whole number that is at most a share of what the dense network has.

    >>> find_limit(1 - (1 - 999_999 / 1_000_001), 1_000_001)
    999999
    """
    # What is added makes up for the rounding of 1 - (1 - share).
    return math.floor(share * dense + 5e-16 * dense + 1e-6)


class Targets(Document):
    """The targets to reach, told in one quantity.

    `sparsity`: fractions of the prunable weights that are zero. The others are budgets that the
    pruned network keeps to: each value is a share of the dense network's, 0 < x < 1, or a whole
    number from 2 on; a list has shares alone or numbers alone. How many weights or channels remain
    is then searched for, so that the budget is met from below. `flops`: those of one image, as the
    report counts them. `parameters`: those that are not pruned. `size_bytes`: the bytes of the
    checkpoint in the format `sparse`, its share that of the dense file. `max_error_increase`: one
    limit or up to four on the validation error above that of the dense control, as fractions; the
    sparsest network within each is searched for, with networks that are each pruned from the dense
    one and retrained (`pruning.rounds.error_search`).

    >>> Targets(flops=(0.25, 0.5)).removals
    (0.5, 0.75)
    """

    sparsity: Annotated[tuple[Sparsity, ...], Field(min_length=1, max_length=64)] | None = Field(
        default=None, exclude_if=_is_open
    )
    flops: Budgets | None = Field(default=None, exclude_if=_is_open)
    parameters: Budgets | None = Field(default=None, exclude_if=_is_open)
    size_bytes: Budgets | None = Field(default=None, exclude_if=_is_open)
    max_error_increase: Limits | None = Field(default=None, exclude_if=_is_open)

    @field_validator(*QUANTITIES)
    @classmethod
    def _check_list(
        cls, values: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if values is None:
            return None
        if len(set(values)) != len(values):
            nouns = {"sparsity": "sparsity", "max_error_increase": "limit"}
            raise ValueError(f"a {nouns.get(info.field_name or '', 'budget')} is listed twice")
        if len({value < 1 for value in values}) > 1:
            raise ValueError("list shares of the dense network or numbers, not both")
        return values

    @model_validator(mode="after")
    def _one_quantity(self) -> Targets:
        given = [name for name in QUANTITIES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(QUANTITIES)}; "
                f"{' and '.join(given) if given else 'none'} is given"
            )
        if self.sparsity is not None:
            # The document is frozen once it is validated.
            object.__setattr__(self, "sparsity", tuple(sorted(self.sparsity)))
        if self.max_error_increase is not None:
            object.__setattr__(self, "max_error_increase", tuple(sorted(self.max_error_increase)))
        return self

    @property
    def quantity(self) -> Quantity:
        """The quantity that the targets are told in."""
        return next(name for name in QUANTITIES if getattr(self, name) is not None)

    @property
    def are_budgets(self) -> bool:
        """Whether the targets are budgets of what a network costs."""
        return self.quantity in ("flops", "parameters", "size_bytes")

    @property
    def are_searched(self) -> bool:
        """Whether the targets are limits on the error, for which networks are tried."""
        return self.quantity == "max_error_increase"

    def describe(self) -> str:
        """Say in words what a target is: `a budget of FLOPs`."""
        if self.are_budgets:
            return f"a budget of {NOUNS[self.quantity]}"
        return "a limit on the error" if self.are_searched else "a sparsity"

    @property
    def values(self) -> tuple[float, ...]:
        """The targets as they are given."""
        values: tuple[float, ...] = getattr(self, self.quantity)
        return values

    @property
    def are_amounts(self) -> bool:
        """Whether the targets are whole numbers, which only mean something beside a network."""
        return self.values[0] > 1

    @property
    def removals(self) -> tuple[float, ...]:
        """The part that each target removes, the least first: the sparsity, or the share of the
        dense network's cost, 1 - budget / cost.

        Raises `ValueError` for whole numbers (see `TargetsOfNetwork`) and for limits on the error,
        whose networks are searched for.
        """
        return tuple(sorted(self.find_removal(value) for value in self.values))

    def find_removal(self, value: float) -> float:
        """The part that one of the targets removes."""
        if self.are_searched:
            raise ValueError("what a limit on the error removes is known after its search")
        if value > 1:
            raise ValueError(f"{value} {self.quantity} is a share of a known network alone")
        return value if self.quantity == "sparsity" else 1.0 - value

    def find_asked(self, removal: float) -> float:
        """The target, as it is given, that removes this part."""
        return min(self.values, key=lambda value: abs(self.find_removal(value) - removal))

    def find_pointer(self, removal: float) -> str:
        """The JSON pointer to the target that removes this part."""
        index = self.values.index(self.find_asked(removal))
        return f"/targets/{self.quantity}" + ("" if self.sparsity is not None else f"/{index}")


class TargetsOfNetwork(Targets):
    """The targets of a job whose dense network is known; written as they are given."""

    dense: Annotated[int, Field(ge=1)]
    """The amount that the dense network has."""

    def find_removal(self, value: float) -> float:
        """The part that one of the targets removes."""
        return 1.0 - value / self.dense if value > 1 else super().find_removal(value)

    def limit(self, share: float) -> int:
        """The largest whole number that is at most this share of what the dense network has."""
        return find_limit(share, self.dense)


class RequestedBudget(Document):
    """A budget that a checkpoint keeps to: what was asked for, and what it has."""

    quantity: Literal["flops", "parameters", "size_bytes"]
    value: float
    """The target as it was asked for: a share of what the dense network has, or a number."""
    limit: int
    """The most that the checkpoint may have: the largest whole number within the budget."""
    reached: int
    """The amount that the checkpoint has, the most of any replicate: its `flops`,
    `parameters`, or bytes in the format `sparse`.
    """
    dense: int
    """The amount that the dense network has, with none of its weights at zero; of bytes, those of
    the dense file.
    """

    @property
    def removal(self) -> float:
        """The share of what the dense network has that is to go."""
        return 1.0 - self.limit / self.dense

    @property
    def noun(self) -> str:
        """The name of what the quantity counts, as people read it."""
        return NOUNS[self.quantity]


class RequestedIncrease(Document):
    """A limit on the error that a checkpoint keeps to on validation images: what was asked for, and
    what the search for the sparsest network within it found.
    """

    quantity: Literal["max_error_increase"]
    value: float
    """The limit: the most by which the validation error may be above that of the dense control."""
    reached: float
    """The validation error of the checkpoint above that of the dense control."""
    removal: float
    """The sparsity of the step of the search at which the checkpoint is."""
    next_sparsity: float | None
    """The next step of the search, whose network is beyond the limit or could not be pruned so far;
    `null` where the search ended at its sparsest step, so that a sparser network may be within.
    """
    tried: int
    """The networks that the searches of the criterion tried."""


Requested: TypeAlias = RequestedBudget | RequestedIncrease
"""A request that is no sparsity."""
