"""The base of all answers of the service: frozen objects that keep what came, short in print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from secateur import display


class Answer(BaseModel):
    """A document of the service: frozen, open to new fields."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    shown: ClassVar[tuple[str, ...]] = ()
    """The names of the fields in the short texts of an answer; all of them where none is named."""

    def __repr__(self) -> str:
        return display.format_repr(type(self).__name__, self._list_shown())

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return display.format_html([self._list_shown()])

    def _list_shown(self) -> dict[str, Any]:
        names = self.shown or type(self).model_fields
        return {name: getattr(self, name) for name in names}

    def document(self) -> dict[str, Any]:
        """Return the fields as they came, JSON-ready."""
        return self.model_dump(mode="json", exclude_unset=True)


class KeptAnswer(Answer):
    """An answer that keeps the document itself, to the digit."""

    _sent: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_what_was_sent(cls, sent: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        answer = handler(sent)
        if isinstance(sent, dict):
            answer._sent = sent
        return answer

    def document(self) -> dict[str, Any]:
        """Return the fields as they came, JSON-ready."""
        return dict(self._sent)


class ReadableByName(KeptAnswer):
    """An answer that can be read like the document that it came as: by the names of its fields."""

    def __getitem__(self, name: str) -> Any:
        return self._sent[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sent

    def __eq__(self, other: object) -> bool:
        return self._sent == (
            other if isinstance(other, Mapping) else getattr(other, "_sent", None)
        )

    __hash__ = None  # type: ignore[assignment]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field as it came, or `default` where none came."""
        return self._sent.get(name, default)
