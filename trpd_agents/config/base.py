"""What all sections are made of: the base class, and types that take numbers and flags as they are written."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(strict=True, ge=0, lt=1)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Flag = Annotated[bool, Field(strict=True)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused."""

    # Infinity stays a number when a configuration is sent to another process as JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


def by_kind(value: object) -> object:
    """A section given by the name of its kind alone: `engine: vllm` is `engine: {kind: vllm}`."""
    return {"kind": value} if isinstance(value, str) else value
