"""The `tracking` section: where the metrics go beside `metrics.jsonl`.

None of these services is given a key here: they find what they need where their own `login` has put it.
"""

from __future__ import annotations

from typing import Literal

from trpd_agents.config.base import Flag, Name, Section


class WandbConfig(Section):
    """A run at Weights & Biases; `offline` keeps it in the run directory, for `wandb sync`."""

    project: Name
    entity: Name | None = None  # the account or team; None: the default one
    mode: Literal["online", "offline"] = "online"


class TrackioConfig(Section):
    """A run of Trackio, on this machine."""

    project: Name


class TrackingConfig(Section):
    """What shows the metrics."""

    tensorboard: Flag = True
    wandb: WandbConfig | None = None
    trackio: TrackioConfig | None = None
