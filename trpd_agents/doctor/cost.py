"""What the run will cost in memory and time, from sizes and from one small step that is timed.

The step is a real one, played, scored, credited and learned from with a learning rate of 0, so that no weight moves.
"""

from __future__ import annotations

import math
import os
import time

import torch

from trpd_agents.batching import pick_token_budget, position_chunk
from trpd_agents.credit import assign_credit
from trpd_agents.doctor.episodes import Played
from trpd_agents.doctor.finding import Check, Finding, error, ok, warning
from trpd_agents.learner import Learner
from trpd_agents.trajectory import pad_scored

GB = 1e9
_LONG = 24 * 3600.0  # seconds of a run that are worth a word
_TIGHT = 0.8  # of the memory


def _memory(played: Played) -> Finding:
    subject = played.subject
    config, lm = subject.config, subject.student
    text = lm.model.config.get_text_config()
    trained = sum(p.numel() for p in lm.model.parameters() if p.requires_grad)
    player = getattr(subject.engine, "lm", lm)  # a copy, where it computes in another precision or plays ahead
    held = {id(p): p for m in (lm, player, *subject.teachers.values()) for p in m.model.parameters()}
    weights = sum(p.numel() * p.element_size() for p in held.values())
    optimizer = trained * 12  # a gradient and two moments, float32
    all_heads = getattr(text, "num_attention_heads", 0)  # none where all layers are recurrent
    heads = getattr(text, "num_key_value_heads", None) or all_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // max(1, all_heads)
    here = math.ceil(config.training.episodes_per_step / config.training.ranks)
    cache = 2 * text.num_hidden_layers * heads * width * config.rollout.max_tokens * here * player.model.dtype.itemsize
    # A layer keeps about this many values per token for the backward pass; and the head's chunk, with its gradient.
    per_token = text.hidden_size * 2 if config.learner.activation_checkpointing else text.hidden_size * 16
    budget = pick_token_budget(config.learner.token_budget, lm.device)
    activations = budget * text.num_hidden_layers * per_token * 4
    head = 3 * min(position_chunk(lm.vocab_size), budget) * lm.vocab_size * 4
    parts = {"weights": weights, "optimiser": optimizer, "KV cache": cache, "update": activations + head}
    needed = sum(parts.values()) * config.training.ranks
    free = _memory_of(lm.device)
    each = ", ".join(f"{name} {size / GB:.2g}" for name, size in parts.items())
    times = f" times {config.training.ranks} processes" if config.training.ranks > 1 else ""
    found = f"{lm.parameters:,} parameters, {trained:,} trained; at most about {needed / GB:.2g} GB ({each}){times}"
    found += "" if free is None else f"; {free / GB:.3g} GB here"
    fix = "Lower learner.token_budget, rollout.max_tokens or training.episodes_per_step; or set "
    fix += "learner.activation_checkpointing or learner.lora."
    if free is not None and weights + optimizer > free:
        return error(found, "Weights and optimiser alone are too much: take a smaller model, or learner.lora.")
    return warning(found, fix) if free is not None and needed > _TIGHT * free else ok(found)


def _memory_of(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _time(played: Played) -> Finding:
    config = played.subject.config
    training, evaluation = config.training, config.evaluation
    here = math.ceil(training.episodes_per_step / training.ranks)
    seconds = timed_step(played)
    share = here / len(played.episodes)
    each = {phase: spent * share for phase, spent in seconds.items()}
    turns = sum(len(t.turns) for t in played.episodes) / len(played.episodes)
    steps = training.steps or math.ceil((training.environment_steps or 0) / max(turns * training.episodes_per_step, 1))
    rounds = 1 + evaluation.before + evaluation.teacher + (steps // evaluation.every if evaluation.every else 0)
    playing = seconds["rollout"] / len(played.episodes) * evaluation.episodes / training.ranks
    total = steps * sum(each.values()) + rounds * playing
    told = ", ".join(f"{phase} {spent:.2g}" for phase, spent in each.items())
    found = (
        f"about {sum(each.values()):.2g} s a step ({told}), {_readable(total)} for {steps} steps and {rounds} "
        f"evaluations; from {len(played.episodes)} episodes"
    )
    if total > _LONG:
        return warning(
            found, "Fewer steps or episodes, shorter actions, or a GPU; docs/performance.md says what costs."
        )
    return ok(found)


def timed_step(played: Played) -> dict[str, float]:
    """Seconds of playing (as it was in `Played`), scoring and updating on the student's episodes; no weight moves."""
    subject, episodes = played.subject, played.episodes
    settings = subject.config.learner.model_copy(update={"lr": 0.0, "lora": None})
    started = time.perf_counter()
    for trajectory, scores in zip(episodes, subject.teacher.score(episodes), strict=True):
        trajectory.scores = scores
    scored = time.perf_counter()
    method = subject.config.credit.method
    credit = assign_credit(pad_scored(episodes), method)
    Learner(subject.student, settings).update(episodes, credit, method, subject.teacher, progress=0.0)
    return {"rollout": played.seconds, "score": scored - started, "update": time.perf_counter() - scored}


def _readable(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


MEMORY = Check("memory", "weights, optimiser and the longest batches fit", _memory)
TIME = Check("time", "a run that ends within a day", _time)
