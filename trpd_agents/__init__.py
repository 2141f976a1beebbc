"""Train language-model agents from stronger ones: on-policy distillation with a trajectory trust region.

    import trpd_agents

    summary = trpd_agents.train("configs/quickstart.yaml")
    result = trpd_agents.evaluate("runs/quickstart/student", "Courier-v0", episodes=256)

Everything here loads on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trpd_agents.credit import Credit, CreditConfig, assign_credit
    from trpd_agents.evaluation import Evaluation, evaluate
    from trpd_agents.textenv import make
    from trpd_agents.training import train
    from trpd_agents.trajectory import ScoredBatch, Trajectory

_WHERE = {
    "Credit": "trpd_agents.credit",
    "CreditConfig": "trpd_agents.credit",
    "Evaluation": "trpd_agents.evaluation",
    "ScoredBatch": "trpd_agents.trajectory",
    "Trajectory": "trpd_agents.trajectory",
    "assign_credit": "trpd_agents.credit",
    "evaluate": "trpd_agents.evaluation",
    "make": "trpd_agents.textenv",
    "train": "trpd_agents.training",
}
__all__ = [
    "Credit",
    "CreditConfig",
    "Evaluation",
    "ScoredBatch",
    "Trajectory",
    "assign_credit",
    "evaluate",
    "make",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
