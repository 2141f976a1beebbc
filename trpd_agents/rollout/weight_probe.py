"""The weight probe: does the engine sample with the weights that are being trained?

An engine with weights of its own can miss an update, get part of it, or compute something else altogether, and a run
would go on quietly with a policy that nobody trains. So log-probabilities of the same tokens are compared at the start,
when a batch has been sampled, and after every push of weights. Two things are asked: that they are close, and that they
moved as the trainer's did. A learning rate that moves log-probabilities by a thousandth of a nat leaves a missed update
far below any limit that lower precision would pass; but the gap is then larger than it was before the update, and the
engine's log-probabilities did not go the way of the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress

import numpy as np

from trpd_agents.distributed import World
from trpd_agents.errors import EnvironmentFailure, RunError
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.rollout.engine import Engine
from trpd_agents.scoring import score_tokens
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.trajectory import Trajectory

MAX_GAP = 0.1  # nats per token
ENOUGH = 48  # tokens of one rank that are compared
MISSING_SHARE = 0.1  # of an update's effect that may seem to be missing, beside what precision explains:
ERRORS = 6.0  # as many standard errors of that share,
WORSE, FLOOR = 10.0, 1e-4  # as many times the gap there was before the update, and nats per token
_LONGEST_OPENING = 256  # tokens


class WeightProbe:
    """Compares `engine` with `lm`, the model that is trained. All ranks call every method together.

    Args:
        max_gap: nats per token, mean absolute difference.
    """

    def __init__(self, engine: Engine, lm: LanguageModel, world: World, max_gap: float = MAX_GAP):
        self.engine = engine
        self.lm = lm
        self.world = world
        self.max_gap = max_gap
        # An engine that computes with the trained tensors themselves receives nothing, so nothing can get lost.
        self.shares_weights = getattr(engine, "lm", None) is lm
        self._openings: Sequence[np.ndarray] = ()
        self._probes: list[Trajectory] = []
        self._before: list[np.ndarray] = []

    def start(self, openings: Sequence[np.ndarray]) -> float:
        """The gap on texts that nobody sampled, before anything is played. Raises RunError as `pushed` does."""
        self._openings = openings
        _, _, gap = self._compare(*_after_the_first(openings), "before the first episode")
        return gap

    def sampled(self, trajectories: Sequence[Trajectory]) -> float:
        """The gap between log-probabilities as sampled and as the trained weights give them, before the update.

        Measured on a few of `trajectories`, which `pushed` looks at again.

        Raises:
            RunError: above `max_gap`.
        """
        self._probes, count = [], 0
        for trajectory in trajectories:
            own = int(trajectory.authored("student").sum())
            if own and count < ENOUGH:
                self._probes.append(trajectory)
                count += own
        tokens, positions = self._at()
        self._before = self._trainer(tokens, positions)
        sampled = [t.logprobs[at] for t, at in zip(self._probes, positions, strict=True)]
        return self._require(sampled, self._before, "in the episodes just played")

    def pushed(self) -> float:
        """The gap after the update's weights were loaded, on the texts of `start` and what `sampled` looked at.

        Raises:
            RunError: above `max_gap`, or the engine's log-probabilities did not move as the trainer's did.
        """
        if self.shares_weights:
            return 0.0
        tokens, positions = self._at()
        known, places = _after_the_first(self._openings)
        there, here, gap = self._compare([*tokens, *known], [*positions, *places], "after a push of weights to it")
        sampled = [t.logprobs[at] for t, at in zip(self._probes, positions, strict=True)]
        moved = _joined(here[: len(tokens)]) - _joined(self._before)
        followed = _joined(there[: len(tokens)]) - _joined(sampled)
        apart, before = (
            _joined(there[: len(tokens)]) - _joined(here[: len(tokens)]),
            _joined(sampled) - _joined(self._before),
        )
        squares = (len(moved), moved @ moved, moved @ followed, followed @ followed)
        means = (np.abs(apart).sum(), np.abs(before).sum(), np.abs(moved).sum())
        count, *sums = self.world.sum(*(float(v) for v in (*squares, *means)))
        arrived, error = share_arrived(count, *sums[:3])
        now, then, way = (total / max(count, 1.0) for total in sums[3:])
        lost = now > FLOOR + WORSE * then + MISSING_SHARE * way
        if lost or abs(1 - arrived) > MISSING_SHARE + ERRORS * error:
            raise RunError(
                f"the weights of the last update did not arrive in the engine as they are: its log-probabilities "
                f"moved by {arrived:.2f} times what the trainer's did (1 expected, standard error {error:.2g}), and "
                f"are {now:.3g} nats per token away from them ({then:.3g} before the update). " + CAUSES
            )
        return gap

    def _at(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        return [t.tokens for t in self._probes], [np.flatnonzero(t.authored("student")) for t in self._probes]

    def _compare(
        self, tokens: Sequence[np.ndarray], positions: Sequence[np.ndarray], when: str
    ) -> tuple[list[np.ndarray], list[np.ndarray], float]:
        there, here = self._engine(tokens, positions), self._trainer(tokens, positions)
        return there, here, self._require(there, here, when)

    def _engine(self, tokens: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [scores.lt for scores in self.engine.logprobs(tokens, positions, top_k=0)] if tokens else []

    def _trainer(self, tokens: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [scores.lt for scores in score_tokens(self.lm, tokens, positions)] if tokens else []

    def _require(self, there: Sequence[np.ndarray], here: Sequence[np.ndarray], when: str) -> float:
        apart = np.abs(_joined(there) - _joined(here))
        total, count = self.world.sum(float(apart.sum()), float(len(apart)))
        gap = total / count if count else 0.0
        if not gap <= self.max_gap:  # a NaN is no agreement either
            raise RunError(
                f"the sampler and the trained weights disagree by {gap:.3g} nats per token (at most {self.max_gap} "
                f"expected) {when}. " + CAUSES
            )
        return gap


CAUSES = (
    "Likely causes: the weights did not reach the engine (for vLLM see docs/engines.md: tied embeddings on a CPU), it "
    "serves another model, or it computes in a much lower precision than the trainer (rollout.engine.dtype)"
)


def share_arrived(count: float, moved: float, product: float, followed: float) -> tuple[float, float]:
    """How much of the trainer's movement the engine's log-probabilities made, and the standard error of that.

    Least squares through the origin, from sums over tokens: `moved` and `followed` of the squared movements of trainer
    and engine, and `product` of the two multiplied. Where too little moved to tell, the error is infinite.
    """
    if count < 2 or not moved > 0:
        return 1.0, float("inf")
    share = product / moved
    residual = max(followed - share * product, 0.0)
    return share, float(np.sqrt(residual / (count - 1) / moved))


def openings(spec: EnvSpec, lm: LanguageModel, seeds: Sequence[int]) -> list[np.ndarray]:
    """What an environment tells a player first, int64 `[T]` each; of episodes that it fails to begin, nothing."""
    dialogues, found = Dialogues(lm.tokenizer), []
    for seed in seeds:
        with suppress(EnvironmentFailure), closing(make(spec)) as env:
            observation = env.reset(seed)
            tokens = dialogues(env.instructions, env.tools).start(observation)
            found.append(np.array(tokens[:_LONGEST_OPENING], dtype=np.int64))
    return [tokens for tokens in found if len(tokens) > 1]


def _after_the_first(sequences: Sequence[np.ndarray]) -> tuple[Sequence[np.ndarray], list[np.ndarray]]:
    return sequences, [np.arange(1, len(tokens)) for tokens in sequences]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.asarray(p, dtype=np.float64) for p in parts)])
