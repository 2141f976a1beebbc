"""Thresholds that follow the run: quantiles of the divergences seen lately, turned into plain values.

Invariant: the values depend on the divergences handed in and on nothing else, so whoever keeps those decides what a
rule may know; without any, nothing is outside.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import torch

from trpd_agents.credit.config import HysteresisRule, Thresholds

AnyRule = TypeVar("AnyRule")


def fixed(rule: AnyRule, recent: torch.Tensor | None) -> AnyRule:
    """`rule` with its thresholds as values; any other rule is returned as it is.

    `recent` `[n]` are the divergences of turns that counted, oldest first; only the last `rule.window` are read.
    A threshold on a divergence is never negative, so a negative quantile becomes 0. None or empty: `enter` is inf.
    """
    if not isinstance(rule, Thresholds) or rule.thresholds == "value":
        return rule
    seen = None if recent is None else recent.detach().reshape(-1)[-rule.window :].to(torch.float64)

    def value(share: float) -> float:
        return math.inf if seen is None or not len(seen) else max(0.0, float(torch.quantile(seen, share)))

    values: dict[str, Any] = {"enter": value(rule.enter)}
    if isinstance(rule, HysteresisRule):
        values["leave"] = value(rule.leave)
    return dataclasses.replace(rule, thresholds="value", **values)
