"""What one batch's credit amounts to, in a handful of numbers for the logs."""

from __future__ import annotations

import torch

from trpd_agents.credit.gate import acceptance
from trpd_agents.credit.reason import Reason
from trpd_agents.trajectory import ScoredBatch


def count(
    scored: ScoredBatch,
    d: torch.Tensor,
    usable: torch.Tensor,
    policy_weight: torch.Tensor,
    forward_kl_weight: torch.Tensor,
    reason: torch.Tensor,
    filtered: torch.Tensor,
) -> dict[str, float]:
    """Totals in tokens or trajectories; shares and means are over action tokens and 0 when there are none.

    `d` is the log ratio `[B, T]` (nats, finite), `usable` the tokens it stands for, `filtered` bool `[B]`. `acceptance`
    estimates one minus the total variation between student and teacher, `sampled_reverse_kl` (nats) their reverse KL;
    both are over usable tokens, whatever weight those got.
    """
    n_action = int(scored.action.sum())
    n_usable = int(usable.sum())

    def share(total: torch.Tensor, n: int) -> float:
        return float(total) / n if n else 0.0

    return {
        "action_tokens": n_action,
        "guided_tokens": int(scored.guided.sum()),
        "kept_share": share((policy_weight > 0).sum(), n_action),
        "policy_weight_mean": share(policy_weight.sum(dtype=torch.float64), n_action),
        "forward_kl_share": share((forward_kl_weight > 0).sum(), n_action),
        "outside_share": share((reason == Reason.OUTSIDE_REGION).sum(), n_action),
        "acceptance": share(torch.where(usable, acceptance(d), 0).sum(dtype=torch.float64), n_usable),
        "sampled_reverse_kl": share(-d.sum(dtype=torch.float64), n_usable),
        "teacher_logprob_invalid": int((usable & ~torch.isfinite(scored.lt)).sum()),
        "student_logprob_invalid": int((scored.action & ~torch.isfinite(scored.ls)).sum()),
        "teacher_unavailable": int((~scored.teacher_available).sum()),
        "filtered_trajectories": int(filtered.sum()),
    }
