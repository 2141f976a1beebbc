"""The credit assigner: which of the teacher's supervision to believe, token by token and turn by turn.

Invariant: a pure function of its arguments. Every weight is finite, in [0, 1] for the policy and forward-KL streams,
and exactly 0 on tokens that are neither action nor guided, whatever is stored there; no weight of a trajectory depends
on another trajectory, on padding or on the order of the batch. Invalid values are taken out with `where`, never by
multiplying with 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trpd_agents.credit.config import CreditConfig
from trpd_agents.credit.divergence import summarise_turns
from trpd_agents.credit.gate import acceptance, trust
from trpd_agents.credit.guidance import imitation_weight
from trpd_agents.credit.outliers import handle_outliers, top_tokens_usable
from trpd_agents.credit.reason import Reason
from trpd_agents.credit.rules import turn_weights
from trpd_agents.trajectory import ScoredBatch

INVALID_LOG_RATIO = -20.0
"""Nats: the log ratio of a token whose teacher log-probability is not finite. Far outside any region, yet finite in
sums."""


@dataclass(frozen=True)
class Credit:
    """How much each loss stream believes each token. Axes: B trajectories, T tokens, K turns; no gradient anywhere."""

    policy_weight: torch.Tensor  # float32 [B, T]  reverse KL
    score: torch.Tensor  # float32 [B, T]  nats, log ratio after clipping: what the sampled estimator multiplies
    forward_kl_weight: torch.Tensor  # float32 [B, T]
    imitation_weight: torch.Tensor  # float32 [B, T]
    turn_weight: torch.Tensor  # float32 [B, K]
    turn_divergence: torch.Tensor  # float32 [B, K]  0 where the turn does not count
    turn_counts: torch.Tensor  # bool [B, K]  the turn's divergence was looked at
    reason: torch.Tensor  # int8 [B, T]  codes of `Reason`
    counts: dict[str, float]  # totals and shares of this batch: see `_count`


def assign_credit(scored: ScoredBatch, config: CreditConfig, step: int = 0, seed: int = 0) -> Credit:
    """Turn teacher scores into weights. `step` and `seed` key the random numbers of a Bernoulli gate.

    A token whose student log-probability is not finite is dropped. A teacher log-probability that is not finite counts
    as `INVALID_LOG_RATIO` in turn figures, and its token goes to forward KL where that is the chosen branch, else to no
    loss; the one exception is `-inf` with `estimator="full"`: a teacher that rules the sampled token out still has a
    distribution to learn from. A trajectory without a teacher has weight 0 throughout.

    Raises ValueError when shapes disagree, a token is both action and guided or names no turn, or top tokens are
    missing.
    """
    _check(scored)
    with torch.no_grad():
        return _assign(scored, config, step, seed)


def _assign(scored: ScoredBatch, config: CreditConfig, step: int, seed: int) -> Credit:
    action, guided = scored.action, scored.guided
    ls, lt = scored.ls.float(), scored.lt.float()
    available = scored.teacher_available[:, None]
    ls_valid = torch.isfinite(ls)
    lt_valid = torch.isfinite(lt)
    usable = action & available & ls_valid
    d = torch.where(usable, torch.where(lt_valid, lt - ls, INVALID_LOG_RATIO), 0)

    complete = scored.complete & available
    turns = summarise_turns(config.divergence, d, scored.turn, usable, scored.ok, complete)
    turn_weight = torch.where(available, turn_weights(config.rule, turns), 0)

    ordinal = (action | guided).to(torch.int64).cumsum(1)
    trusted = trust(config.gate, d, scored.trajectory_id, ordinal, step, seed)
    scorable = lt_valid | (torch.isneginf(lt) if config.exact else torch.zeros_like(lt_valid))
    top_usable = top_tokens_usable(config.outlier, scored.top_lt, usable)
    token = handle_outliers(config.outlier, d, trusted, scorable, top_usable)

    token_turn_weight = _per_token(turn_weight, scored.turn, usable)
    policy_weight = torch.where(usable, token_turn_weight * token.policy_weight, 0)
    forward_kl_weight = torch.where(usable, token_turn_weight * token.forward_kl_weight, 0)
    score = torch.where(usable, token.score, 0)
    imitated = torch.where(guided & available, imitation_weight(config.guidance), 0.0)

    reason = torch.full(action.shape, Reason.KEPT, dtype=torch.int8, device=action.device)
    # later lines overrule earlier ones
    for where, code in (
        (policy_weight < 1, Reason.DOWNWEIGHTED),
        (score != d, Reason.CLIPPED),
        (policy_weight == 0, Reason.GATE_REJECTED),
        ((policy_weight == 0) & ~scorable, Reason.TEACHER_LOGPROB_INVALID),
        ((policy_weight == 0) & (forward_kl_weight > 0), Reason.FORWARD_KL),
        (token_turn_weight == 0, Reason.OUTSIDE_REGION),
        (~ls_valid, Reason.STUDENT_LOGPROB_INVALID),
        (guided, Reason.GUIDED),
        (~available, Reason.TEACHER_UNAVAILABLE),
        (~(action | guided), Reason.NOT_ACTION),
    ):
        reason = torch.where(where, int(code), reason)

    return Credit(
        policy_weight=policy_weight,
        score=score,
        forward_kl_weight=forward_kl_weight,
        imitation_weight=imitated.to(torch.float32),
        turn_weight=turn_weight,
        turn_divergence=turns.divergence,
        turn_counts=turns.counts,
        reason=reason.to(torch.int8),
        counts=_count(scored, d, usable, lt_valid, policy_weight, forward_kl_weight, reason),
    )


def _per_token(turn_weight: torch.Tensor, turn: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Spread `[B, K]` over tokens `[B, T]`; 1 on tokens that are not usable."""
    B, K = turn_weight.shape
    padded = torch.cat([turn_weight, turn_weight.new_ones(B, 1)], dim=1)
    return padded.gather(1, torch.where(usable, turn, K))


def _count(
    scored: ScoredBatch,
    d: torch.Tensor,
    usable: torch.Tensor,
    lt_valid: torch.Tensor,
    policy_weight: torch.Tensor,
    forward_kl_weight: torch.Tensor,
    reason: torch.Tensor,
) -> dict[str, float]:
    """Totals in tokens or trajectories; shares and means are over action tokens and 0 when there are none.

    `acceptance` estimates one minus the total variation between student and teacher, `sampled_reverse_kl` (nats) their
    reverse KL; both are over usable tokens, whatever weight those got.
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
        "teacher_logprob_invalid": int((usable & ~lt_valid).sum()),
        "student_logprob_invalid": int((scored.action & ~torch.isfinite(scored.ls)).sum()),
        "teacher_unavailable": int((~scored.teacher_available).sum()),
    }


def _check(scored: ScoredBatch) -> None:
    B, T = scored.action.shape
    K = scored.ok.shape[1]
    wanted = {
        "guided": (B, T),
        "turn": (B, T),
        "ls": (B, T),
        "lt": (B, T),
        "ok": (B, K),
        "complete": (B, K),
        "trajectory_id": (B,),
        "teacher_available": (B,),
    }
    for name, shape in wanted.items():
        found = tuple(getattr(scored, name).shape)
        if found != shape:
            raise ValueError(f"{name}: found shape {found}, wanted {shape} to go with action {(B, T)} and ok {(B, K)}")
    if scored.top_lt is not None and tuple(scored.top_lt.shape[:2]) != (B, T):
        raise ValueError(f"top_lt: found shape {tuple(scored.top_lt.shape)}, wanted {(B, T)} and the top tokens")
    if bool((scored.action & scored.guided).any()):
        raise ValueError("guided: found tokens that are also action; a token was written by the student or the teacher")
    if bool((scored.action & ((scored.turn < 0) | (scored.turn >= K))).any()):
        raise ValueError(f"turn: found action tokens outside turns 0 to {K - 1}, wanted an explicit turn for each")
