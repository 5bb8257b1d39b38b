"""Strengths of noise as they are configured: a number, or a range from which each image gets its own."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from dae.schemas import FrozenModel, reject_bool

Strength = Annotated[float, Field(ge=1e-6, le=1e6), BeforeValidator(reject_bool)]
Amount = Annotated[float, Field(gt=0, le=1), BeforeValidator(reject_bool)]


class StrengthRange(FrozenModel):
    r"""Strengths :math:`s` of which each image gets its own, log-uniform: :math:`\ln s \sim U(\ln l, \ln h)`.

    A tenth of the range in decibels gets a tenth of the images, wherever it lies. The law is the same whether a strength is
    told as a variance or as a standard deviation, as a peak or as its inverse, so one law serves all kinds.

    Parameters
    ----------
    low, high : float
        :math:`l < h`, each within the bounds of the strength itself.

    Examples
    --------
    >>> strengths = StrengthRange(low=0.01, high=1).draw(10_000, np.random.default_rng(0))
    >>> round(float(np.mean(strengths < 0.1)), 2)
    0.5
    """

    low: Strength
    high: Strength

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, received low {self.low:g} and high {self.high:g}")
        return self

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return `count` independent strengths, shape ``(count,)``."""
        drawn = np.exp(rng.uniform(math.log(self.low), math.log(self.high), count))
        return np.clip(drawn, self.low, self.high)


class AmountRange(StrengthRange):
    """A range of shares of the pixels, in (0, 1]."""

    low: Amount
    high: Amount


def _form(value: Any) -> str | None:
    if isinstance(value, dict | StrengthRange):
        return "range"
    return "number" if isinstance(value, int | float | str) else None


def _any_of(schema: dict[str, Any]) -> None:
    schema["anyOf"] = schema.pop("oneOf")  # the forms of Prefect's UI know anyOf alone


_ONE_OF_TWO = (
    Discriminator(
        _form, custom_error_type="strength", custom_error_message="must be a number, or a range: low and high"
    ),
    Field(json_schema_extra=_any_of),
)
StrengthOrRange = Annotated[Annotated[Strength, Tag("number")] | Annotated[StrengthRange, Tag("range")], *_ONE_OF_TWO]
AmountOrRange = Annotated[Annotated[Amount, Tag("number")] | Annotated[AmountRange, Tag("range")], *_ONE_OF_TWO]
PeakOrRange = Annotated[
    Annotated[Strength | Literal["grey_levels"], Tag("number")] | Annotated[StrengthRange, Tag("range")], *_ONE_OF_TWO
]
