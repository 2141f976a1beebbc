"""The `learner.correction` section: what to do about an engine whose probabilities are not quite the trainer's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trpd_agents.config.base import Section, by_kind


class CorrectionConfig(Section):
    """By the ratio `rho = pi_trainer / pi_sampler` of each sampled token, both before the update.

    `truncate` weighs a token by `min(rho, limit)`, `mask` drops it where `rho` is not within `1/limit` and `limit`.
    """

    kind: Literal["none", "truncate", "mask"] = "none"
    limit: Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)] = 2.0


Correction = Annotated[CorrectionConfig, BeforeValidator(by_kind)]
