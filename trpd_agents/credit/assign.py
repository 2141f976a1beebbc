"""The credit assigner: which of the teacher's supervision to believe, token by token and turn by turn.

Invariant: a pure function of its arguments. Every weight is finite, at least 0, at most 1 (but for turns that the rule
itself raises) and exactly 0 on tokens that are neither action nor guided, whatever is stored there; no weight of a
trajectory depends on another trajectory of the batch, on padding or on the batch's order. Invalid values are taken out
with `where`, never by multiplying with 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trpd_agents.credit.check import check
from trpd_agents.credit.config import CreditConfig
from trpd_agents.credit.counts import count
from trpd_agents.credit.divergence import TurnTokens, summarise_turns
from trpd_agents.credit.filters import trajectory_weight
from trpd_agents.credit.gate import trust
from trpd_agents.credit.guidance import imitation_weight
from trpd_agents.credit.normalise import normaliser_weight, turn_share, turn_unit
from trpd_agents.credit.outliers import handle_outliers, teacher_undecided, top_tokens_usable
from trpd_agents.credit.reason import Reason
from trpd_agents.credit.rules import fixed, turn_weights
from trpd_agents.trajectory import ScoredBatch

INVALID_LOG_RATIO = -20.0
"""Nats: the log ratio of a token whose teacher log-probability is not finite. Far outside any region, yet finite in
sums."""


@dataclass(frozen=True)
class Credit:
    """How much each loss stream believes each token. Axes: B trajectories, T tokens, K turns; no gradient anywhere.

    The KL streams are sums over the global batch divided by `N`, the sum of `normaliser_weight`. With `turn_share` s
    each of their weights is first multiplied by `(1 - s) + s * turn_unit * N / (sum of turn_unit)`.
    """

    policy_weight: torch.Tensor  # float32 [B, T]  reverse KL
    score: torch.Tensor  # float32 [B, T]  nats, log ratio after bounding: what the sampled estimator multiplies
    forward_kl_weight: torch.Tensor  # float32 [B, T]
    imitation_weight: torch.Tensor  # float32 [B, T]
    turn_weight: torch.Tensor  # float32 [B, K]
    turn_divergence: torch.Tensor  # float32 [B, K]  0 where the turn does not count
    turn_counts: torch.Tensor  # bool [B, K]  the turn's divergence was looked at
    normaliser_weight: torch.Tensor  # float32 [B, T]  what each token adds to N
    turn_unit: torch.Tensor  # float32 [B, T]  one over the action tokens of its turn; sums to the number of turns
    turn_share: float  # in [0, 1]: how much of the mean is the mean over turns of their token means
    reason: torch.Tensor  # int8 [B, T]  codes of `Reason`
    counts: dict[str, float]  # totals and shares of this batch: see `counts.py`


def assign_credit(
    scored: ScoredBatch, config: CreditConfig, step: int = 0, seed: int = 0, recent: torch.Tensor | None = None
) -> Credit:
    """Turn teacher scores into weights.

    `step` and `seed` key the random numbers of the Bernoulli gate and the random mask. `recent` `[n]` are divergences
    of turns that counted in earlier batches, oldest first, for a rule whose thresholds are quantiles of them; without
    any, that rule trusts every turn.

    A token whose student log-probability is not finite is dropped. A teacher log-probability that is not finite counts
    as `INVALID_LOG_RATIO` in turn figures, and its token goes to forward KL where that is the chosen branch, else to no
    loss; the one exception is `-inf` with an exact estimator: a teacher that rules the sampled token out still has a
    distribution to learn from. A trajectory without a teacher, or one filtered out, has weight 0 throughout.

    Raises ValueError when shapes disagree, a token is both action and guided or names no turn, or something that the
    method needs (enough top tokens, the teacher's entropy, outcomes) is missing.
    """
    check(scored)
    with torch.no_grad():
        return _assign(scored, config, step, seed, recent)


def _assign(scored: ScoredBatch, config: CreditConfig, step: int, seed: int, recent: torch.Tensor | None) -> Credit:
    action, guided = scored.action, scored.guided
    ls, lt = scored.ls.float(), scored.lt.float()
    available = scored.teacher_available[:, None]
    ls_valid = torch.isfinite(ls)
    lt_valid = torch.isfinite(lt)
    usable = action & available & ls_valid
    d = torch.where(usable, torch.where(lt_valid, lt - ls, INVALID_LOG_RATIO), 0)

    n_turns = scored.ok.shape[1]
    tokens = TurnTokens(d, ls, scored.turn, usable, n_turns)
    repeat = torch.zeros_like(scored.ok) if scored.repeat is None else scored.repeat
    turns = summarise_turns(config.divergence, tokens, scored.ok, scored.complete & available, repeat)
    counted = trajectory_weight(config.filter, turns, scored.success, scored.teacher_available)[:, None]
    rule = fixed(config.rule, recent)
    in_region = turn_weights(rule, turns, scored.trajectory_id, step, seed)
    turn_weight = torch.where(available & counted, in_region, 0)

    ordinal = (action | guided).to(torch.int64).cumsum(1)
    trusted = trust(config.gate, d, scored.trajectory_id, ordinal, step, seed)
    scorable = lt_valid | (torch.isneginf(lt) if config.exact else torch.zeros_like(lt_valid))
    top_usable = top_tokens_usable(config.forward_kl, scored.top_lt, usable)
    undecided = teacher_undecided(config.outlier, scored.entropy, usable)
    token = handle_outliers(config.outlier, d, trusted, scorable, top_usable, undecided)

    token_turn_weight = _per_token(turn_weight, scored.turn, usable)
    policy_weight = torch.where(usable, token_turn_weight * token.policy_weight, 0)
    forward_kl_weight = torch.where(usable, token_turn_weight * token.forward_kl_weight, 0)
    score = torch.where(usable, token.score, 0)
    imitated = torch.where(guided & available & counted, imitation_weight(config.guidance), 0.0)

    reason = torch.full(action.shape, Reason.KEPT, dtype=torch.int8, device=action.device)
    # later lines overrule earlier ones
    for where, code in (
        (policy_weight < 1, Reason.DOWNWEIGHTED),
        (policy_weight > 1, Reason.UPWEIGHTED),
        (score != d, Reason.CLIPPED),
        (forward_kl_weight > 0, Reason.BOTH_KL),
        (policy_weight == 0, Reason.GATE_REJECTED),
        ((policy_weight == 0) & ~scorable, Reason.TEACHER_LOGPROB_INVALID),
        ((policy_weight == 0) & (forward_kl_weight > 0), Reason.FORWARD_KL),
        (token_turn_weight == 0, Reason.OUTSIDE_REGION),
        (~ls_valid, Reason.STUDENT_LOGPROB_INVALID),
        (guided, Reason.GUIDED),
        (~counted, Reason.FILTERED),
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
        normaliser_weight=normaliser_weight(config.normaliser, action, (policy_weight > 0) | (forward_kl_weight > 0)),
        turn_unit=turn_unit(action, scored.turn, n_turns),
        turn_share=turn_share(config.normaliser),
        reason=reason.to(torch.int8),
        counts=count(scored, d, usable, policy_weight, forward_kl_weight, reason, ~counted[:, 0]),
    )


def _per_token(turn_weight: torch.Tensor, turn: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Spread `[B, K]` over tokens `[B, T]`; 1 on tokens that are not usable."""
    B, K = turn_weight.shape
    padded = torch.cat([turn_weight, turn_weight.new_ones(B, 1)], dim=1)
    return padded.gather(1, torch.where(usable, turn, K))
