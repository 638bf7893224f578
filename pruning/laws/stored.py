"""Laws of any kind that were stored as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, RootModel, ValidationError

from pruning.errors import ParameterError
from pruning.laws.broken import BrokenLaw
from pruning.laws.dense import DenseLaw
from pruning.laws.density import DensityLaw
from pruning.laws.joint import JointLaw
from pruning.laws.sparse import SparseLaw

Law = Annotated[
    DensityLaw | JointLaw | DenseLaw | BrokenLaw | SparseLaw, Field(discriminator="kind")
]


class _StoredLaw(RootModel[Law]):
    """The JSON of a law; `kind` says which."""


def read_law(text: str | bytes) -> Law:
    """Read a law from its `model_dump_json`; `ParameterError` for anything else.

    >>> from pruning.laws.density import fit_density_law
    >>> law = fit_density_law([0.5, 0.25, 0.12, 0.06], [0.081, 0.085, 0.098, 0.131], 0.08)
    >>> read_law(law.model_dump_json()) == law
    True
    """
    try:
        return _StoredLaw.model_validate_json(text).root
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        prefix = f"{place}: " if place else ""
        raise ParameterError(f"not a stored law: {prefix}{first['msg']}") from error
