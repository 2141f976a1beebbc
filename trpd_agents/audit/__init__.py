"""Is the mask right? Signals and methods against the truth about a learned teacher."""

from trpd_agents.audit.masks import Judgement, Mask, judge, mask
from trpd_agents.audit.report import tables, write_audit
from trpd_agents.audit.run import METHODS, OWN, Audit, audit
from trpd_agents.audit.signals import SIGNALS, Signal, turn_signals
from trpd_agents.audit.truth import Turns, label_turns
from trpd_agents.evaluation.roc import Auroc, auroc, auroc_over_episodes, draw_episodes

__all__ = [
    "METHODS",
    "OWN",
    "SIGNALS",
    "Audit",
    "Auroc",
    "Judgement",
    "Mask",
    "Signal",
    "Turns",
    "audit",
    "auroc",
    "auroc_over_episodes",
    "draw_episodes",
    "judge",
    "label_turns",
    "mask",
    "turn_signals",
    "tables",
    "write_audit",
]
