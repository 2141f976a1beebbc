"""The figures of a training step, over the whole global batch, and where they are written.

Names are stable: `metrics.jsonl` and everything that shows them use the same. Units: shares in [0, 1], divergences in
nats per token, times in seconds. docs/configuration.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from trpd_agents.config import RunConfig
from trpd_agents.credit import Credit
from trpd_agents.distributed import World
from trpd_agents.run_directory import RunDirectory
from trpd_agents.safe_text import visible
from trpd_agents.trackers import open_trackers
from trpd_agents.trajectory import ScoredBatch, Stop, Trajectory

SAMPLES = 2
"""Episodes of a stored step that trackers with room for text get."""


def step_figures(
    world: World, played: Sequence[Trajectory], trajectories: Sequence[Trajectory], credit: Credit
) -> dict[str, float]:
    """Figures of one step's episodes and their credit; the same on every rank.

    `played` are all of this rank's episodes, `trajectories` those that the environment did not fail in.
    """
    counts = credit.counts
    n = counts["action_tokens"]
    usable = n - counts["student_logprob_invalid"]
    turns = [turn for t in trajectories for turn in t.turns]
    sums = world.sum(
        len(played),
        len(trajectories),
        sum(bool(t.success) for t in trajectories),
        sum(t.reward for t in trajectories),
        len(turns),
        sum(not turn.ok for turn in turns),
        sum(turn.stop is Stop.LENGTH for turn in turns),
        sum(len(t.tokens) for t in trajectories),
        n,
        counts["guided_tokens"],
        counts["kept_share"] * n,
        counts["policy_weight_mean"] * n,
        counts["forward_kl_share"] * n,
        counts["outside_share"] * n,
        counts["acceptance"] * usable,
        counts["sampled_reverse_kl"] * usable,
        counts["teacher_logprob_invalid"],
        counts["student_logprob_invalid"],
        counts["teacher_unavailable"],
        counts["filtered_trajectories"],
        float((credit.turn_divergence * credit.turn_counts).sum()),
        float(credit.turn_counts.sum()),
        sum(t.draw is not None for t in trajectories),
        sum(bool(t.draw) for t in trajectories),
    )
    episodes, scored, solved, reward, turn_count, refused, cut, tokens, action, guided = sums[:10]
    kept, weight, forward, outside, accepted, kl, bad_teacher, bad_student, unavailable = sums[10:19]
    filtered, divergence, counted, drawable, drawn = sums[19:]

    def per(total: float, count: float) -> float:
        return total / count if count else 0.0

    return {
        "episodes": scored,
        "environment_failures": episodes - scored,
        "success": per(solved, scored),
        **({"draw_rate": drawn / drawable} if drawable else {}),
        "return": per(reward, scored),
        "turns": per(turn_count, scored),
        "refused_share": per(refused, turn_count),
        "cut_off_share": per(cut, turn_count),
        "tokens": tokens,
        "action_tokens": action,
        "guided_tokens": guided,
        "kept_share": per(kept, action),
        "policy_weight": per(weight, action),
        "forward_kl_share": per(forward, action),
        "outside_share": per(outside, action),
        "acceptance": per(accepted, action - bad_student),
        "kl": per(kl, action - bad_student),
        "turn_divergence": per(divergence, counted),
        "teacher_logprob_invalid": bad_teacher,
        "student_logprob_invalid": bad_student,
        "teacher_unavailable": unavailable,
        "filtered": filtered,
    }


@dataclass(frozen=True)
class TurnSums:
    """Sums of a step by turn index, each `[max_turns]`, over all ranks."""

    turns: list[float]  # that somebody played
    action_tokens: list[float]  # of the student
    kept_tokens: list[float]  # of these, with weight in reverse KL
    counted: list[float]  # turns that count
    divergence: list[float]  # summed over those

    def figures(self) -> dict[str, list[float | None]]:
        """As the metrics have them; a mean over nothing is None."""

        def per(totals: list[float], counts: list[float]) -> list[float | None]:
            return [total / count if count else None for total, count in zip(totals, counts, strict=True)]

        return {
            "turns_by_turn": [*self.turns],
            "action_tokens_by_turn": [*self.action_tokens],
            "kept_share_by_turn": per(self.kept_tokens, self.action_tokens),
            "counted_by_turn": [*self.counted],
            "divergence_by_turn": per(self.divergence, self.counted),
        }


def sum_by_turn(
    world: World, trajectories: Sequence[Trajectory], scored: ScoredBatch, credit: Credit, max_turns: int
) -> TurnSums:
    """Of this step's `trajectories`, of which row b of `scored` and `credit` is the b-th; the same on every rank."""

    def tokens(where: torch.Tensor) -> torch.Tensor:
        return torch.bincount(scored.turn[where], minlength=max_turns).double()

    def over_batch(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values.double().sum(0), (0, max_turns - values.shape[1]))

    played = torch.tensor([k for t in trajectories for k in range(len(t.turns))], dtype=torch.int64)
    rows = (
        torch.bincount(played, minlength=max_turns).double(),
        tokens(scored.action),
        tokens(scored.action & (credit.policy_weight > 0)),
        over_batch(credit.turn_counts),
        over_batch(credit.turn_divergence * credit.turn_counts),
    )
    sums = world.sum(*torch.cat(rows).tolist())
    return TurnSums(*(sums[k * max_turns : (k + 1) * max_turns] for k in range(len(rows))))


def counted_divergences(world: World, trajectories: Sequence[Trajectory], credit: Credit) -> torch.Tensor:
    """Divergences of all ranks' turns that count, float32 `[n]`, in the order of trajectory ids and turns: whichever
    rank played an episode does not matter.
    """
    own = {
        trajectory.id: row[counts].tolist()
        for trajectory, row, counts in zip(trajectories, credit.turn_divergence, credit.turn_counts, strict=True)
    }
    everybodys = {key: values for part in world.gather(own) for key, values in part.items()}
    return torch.tensor([value for key in sorted(everybodys) for value in everybodys[key]], dtype=torch.float32)


class MetricsWriter:
    """JSON lines always; beside them the trackers that the run has. Closed at the end of a `with`, however it ends.

    Args:
        first_step: the step to go on after; lines of later ones are forgotten.
        say: is told when a tracker fails.

    Raises:
        UserError: a service refuses the run.
        OSError: the directory cannot be written.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory, first_step: int, say: Callable[[str], None]):
        self._directory = directory
        directory.rewind_metrics(first_step)
        self._trackers = open_trackers(config, directory, first_step, say)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """`step` counts from 1: the figures are those of the step-th update."""
        self._directory.append_metrics({"step": step, **figures})
        for tracker in self._trackers:
            tracker.write(step, figures)

    def show(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """Samples of this step's episodes, to be read."""
        for number, trajectory in enumerate(trajectories[:SAMPLES]):
            for tracker in self._trackers:
                tracker.text(step, f"episode_{number}", transcript(trajectory))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)


def transcript(trajectory: Trajectory) -> str:
    """An episode as plain text that is safe to show."""
    t = trajectory
    outcome = {True: "success", False: "failure", None: "not scored"}[t.success]
    lines = [f"{t.env_id}, seed {t.seed}: {outcome} ({t.outcome}), reward {t.reward:g}", "", t.instructions]
    for k, turn in enumerate(t.turns):
        flags = "" if turn.ok else ", refused"
        lines += ["", f"-- turn {k} --", turn.observation, f"-- {turn.author}{flags} --", turn.text]
    return visible("\n".join([*lines, "", "-- end --", t.final_observation]))
