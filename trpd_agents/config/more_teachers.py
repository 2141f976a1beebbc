"""Keeping a teacher's scores, and the student as a teacher that has read a hint."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from trpd_agents.config.base import Name, Positive, Section


class Cached(Section):
    """A teacher that says the same of the same tokens every time, so that its scores can be kept in a folder."""

    cache: Name | None = None  # the folder; None: nothing is kept
    cache_gigabytes: Positive = 4.0  # how large it may become


class HintedTeacherConfig(Cached):
    """The student's own weights, which read `info["hint"]` before everything else."""

    guidance: ClassVar[tuple[str, ...]] = ("none", "prefix", "bernoulli", "rescue")

    kind: Literal["hinted"] = "hinted"
    follow: Literal["start", "student"] = "start"  # the weights that the run began with, or those it has now

    @model_validator(mode="after")
    def _fixed_if_cached(self) -> HintedTeacherConfig:
        if self.cache is not None and self.follow == "student":
            raise ValueError(
                "cache wants a teacher that does not change, and with follow=student it changes with every update; "
                "set follow=start, or leave cache out"
            )
        return self
