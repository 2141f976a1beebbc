"""Does the sampler draw from the distribution that is trained, and from all of it?

Two things can be wrong. What it reports can differ from what the trainer computes: a gap. And what it draws can be
other than what it reports, as when a server applies a top-p of its own; no log-probability shows that, only the tokens
do. Three tests, each exact or on the safe side for a faithful sampler:

- *tails*: behind the likeliest tokens with a share q of the mass, or the k likeliest, lies a known mass at every
  position. Its sum over positions is how many tokens should have come from there; too few is truncation.
- *surprise*: its mean is the mean entropy, with a known variance; too little or too much is a temperature.
- *shape*: the mass above the sampled token, plus a random part of its own, is uniform in (0, 1) (a randomised
  probability integral transform); it is compared with that by Kolmogorov and Smirnov.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from trpd_agents.batching import position_chunk
from trpd_agents.doctor.finding import Check, Finding, error, ok, skipped, warning
from trpd_agents.doctor.subject import Subject, apart
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.weight_probe import CAUSES
from trpd_agents.trajectory import Trajectory

CERTAIN, SUSPICIOUS = 1e-6, 1e-5  # chance that a faithful sampler is accused


SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
RANKS = (1, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class Draws:
    """Of n sampled tokens under the trainer's distribution, float64 `[n]`: surprise, entropy (nats), variance of
    surprise (nats^2), and `rank`, the transform of *shape*. `[tails, n]`: the mass of each tail, of `SHARES` and then
    of `RANKS`, and whether the token is from it."""

    surprise: np.ndarray
    entropy: np.ndarray
    variance: np.ndarray
    rank: np.ndarray
    tail_mass: np.ndarray
    in_tail: np.ndarray


class Chances(NamedTuple):
    """Probabilities of what was found, or worse, from a faithful sampler."""

    tails: float
    surprise: float
    shape: float


@torch.inference_mode()
def draws_of(lm: LanguageModel, sampled: list[Trajectory]) -> Draws:
    """How the student's own tokens lie in the distributions that `lm` gives them, by bare forward passes."""
    rng = np.random.default_rng(0)
    rows = 4 + 2 * (len(SHARES) + len(RANKS))
    parts: list[np.ndarray] = [np.zeros((rows, 0))]
    chunk = max(1, position_chunk(lm.vocab_size) // 4)  # sorted, and in double precision
    for trajectory in sampled:
        ids = torch.from_numpy(trajectory.tokens.astype(np.int64)).to(lm.device)
        at = torch.from_numpy(np.flatnonzero(trajectory.authored("student"))).to(lm.device)
        hidden = lm.hidden(ids[None])[0].index_select(0, at - 1)
        for h, tokens in zip(hidden.split(chunk), ids[at].split(chunk), strict=True):
            shares = torch.from_numpy(rng.random(len(tokens)))
            parts.append(_of_chunk(lm.logits(h).float().log_softmax(-1).cpu(), tokens.cpu(), shares).numpy())
    whole = np.concatenate(parts, axis=1)
    mass, inside = np.split(whole[4:], 2)
    return Draws(whole[0], whole[1], whole[2], whole[3], mass, inside)


def _of_chunk(logp: torch.Tensor, tokens: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The rows of `Draws`, `[rows, n]`, from log-probabilities `[n, V]` and sampled ids `[n]`."""
    order, ids = logp.double().sort(descending=True)
    p = order.exp()
    before = p.cumsum(-1) - p  # mass of all that is likelier
    place = (ids == tokens[:, None]).int().argmax(-1, keepdim=True)
    own = order.gather(-1, place)[:, 0]
    above = before.gather(-1, place)[:, 0]
    entropy = torch.special.entr(p).sum(-1)
    variance = torch.where(p > 0, p * order.square(), 0).sum(-1) - entropy.square()
    mass = [torch.where(before >= q, p, 0).sum(-1) for q in SHARES] + [p[:, k:].sum(-1) for k in RANKS]
    inside = [above >= q for q in SHARES] + [place[:, 0] >= k for k in RANKS]
    return torch.stack(
        [-own, entropy, variance, above + shares * own.exp(), *mass, *(found.double() for found in inside)]
    )


def chances_of(draws: Draws) -> Chances:
    n = len(draws.rank)
    if not n:
        return Chances(1.0, 1.0, 1.0)
    spread = math.sqrt(float(draws.variance.clip(0).sum())) + 1e-6 * n
    z = float((draws.surprise - draws.entropy).sum()) / spread
    shape = float(stats.kstest(draws.rank.clip(0, 1), "uniform").pvalue)
    # A sum of so many unequal coins is less often so small than Poisson's with the same mean.
    tails = stats.poisson.cdf(draws.in_tail.sum(1), draws.tail_mass.sum(1))
    return Chances(min(1.0, len(tails) * float(tails.min())), float(2 * stats.norm.sf(abs(z))), shape)


def _check(subject: Subject) -> Finding:
    if not subject.sampled:
        return skipped("no turn could be played")
    at = [np.flatnonzero(t.authored("student")) for t in subject.sampled]
    draws = draws_of(subject.student, subject.sampled)
    reported = np.concatenate([t.logprobs[p] for t, p in zip(subject.sampled, at, strict=True)])
    gap, limit = float(apart([reported], [-draws.surprise]).mean()), subject.config.rollout.engine.max_gap
    n = len(draws.rank)
    found = (
        f"reported log-probabilities are {gap:.2g} nats per token off; {n} tokens have surprise "
        f"{draws.surprise.mean():.3f} and entropy {draws.entropy.mean():.3f} nats"
    )
    if not gap <= limit:
        return error(found, f"At most {limit} nats wanted. {CAUSES}; or it reports them after a temperature.")
    chances = chances_of(draws)
    least = min(chances)
    if least < SUSPICIOUS:
        what = _what(draws, chances)
        found = f"{found}: {what} (chance of that by luck {least:.1g})"
        fix = (
            "Sample from the whole distribution at temperature 1: take top_p, top_k, min_p and temperature out of the "
        )
        fix += "engine, the server's flags and the model's generation_config.json (vLLM: --generation-config vllm)."
        return error(found, fix) if least < CERTAIN else warning(found, fix)
    return ok(found)


def _what(draws: Draws, chances: Chances) -> str:
    likelier = draws.surprise.mean() < draws.entropy.mean()
    if chances.tails < CERTAIN and likelier:
        expected, drawn = draws.tail_mass.sum(1), draws.in_tail.sum(1)
        worst = int(stats.poisson.logcdf(drawn, expected).argmin())
        names = [f"the likeliest {q:.0%} of the mass" for q in SHARES] + [f"the {k} likeliest tokens" for k in RANKS]
        return (
            f"{drawn[worst]:.0f} tokens from behind {names[worst]}, where {expected[worst]:.1f} were to be expected: "
            "top-p, top-k or a temperature below 1"
        )
    if likelier:
        return "what is drawn is too likely: a temperature below 1, or top-p or top-k"
    return "what is drawn is too unlikely: a temperature above 1, or other weights"


SAMPLER = Check("sampler", "log-probabilities as the trainer's, tokens from the whole distribution", _check)
