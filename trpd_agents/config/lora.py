"""The `learner.lora` section: train low-rank adapters in place of the weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trpd_agents.config.base import Count, Name, Positive, Section


class LoraConfig(Section):
    """Adapters `(alpha / rank) * B A` beside linear layers (Hu et al., 2106.09685). B starts at 0."""

    rank: Count
    alpha: Positive
    dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # of what goes into an adapter
    target_modules: Name | tuple[Name, ...] = "all-linear"  # names of layers; all-linear: every one but the head
