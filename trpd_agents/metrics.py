"""The figures of a training step, over the whole global batch, and where they are written.

Names are stable: `metrics.jsonl` and TensorBoard use the same. Units: shares in [0, 1], divergences in nats per token,
times in seconds. docs/configuration.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from trpd_agents.credit import Credit
from trpd_agents.distributed import World
from trpd_agents.run_directory import RunDirectory
from trpd_agents.trajectory import Stop, Trajectory


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
        float((credit.turn_divergence * credit.turn_counts).sum()),
        float(credit.turn_counts.sum()),
    )
    episodes, scored, solved, reward, turn_count, refused, cut, tokens, action, guided = sums[:10]
    kept, weight, forward, outside, accepted, kl, bad_teacher, bad_student, unavailable, divergence, counted = sums[10:]

    def per(total: float, count: float) -> float:
        return total / count if count else 0.0

    return {
        "episodes": scored,
        "environment_failures": episodes - scored,
        "success": per(solved, scored),
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
    }


class MetricsWriter:
    """JSON lines always, TensorBoard beside them."""

    def __init__(self, directory: RunDirectory, first_step: int):
        self.directory = directory
        directory.rewind_metrics(first_step)
        self.board = SummaryWriter(str(directory.path / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """`step` counts from 1: the figures are those of the step-th update."""
        self.directory.append_metrics({"step": step, **figures})
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()
