"""Batches that contradict themselves are refused before anything is computed from them."""

from __future__ import annotations

from trpd_agents.trajectory import ScoredBatch


def check(scored: ScoredBatch) -> None:
    """Raises ValueError when shapes disagree, or a token is both action and guided or is an action without a turn."""
    B, T = scored.action.shape
    K = scored.ok.shape[-1]
    wanted = {
        "guided": (B, T),
        "turn": (B, T),
        "ls": (B, T),
        "lt": (B, T),
        "ok": (B, K),
        "complete": (B, K),
        "trajectory_id": (B,),
        "teacher_available": (B,),
        "entropy": (B, T),
        "success": (B,),
        "repeat": (B, K),
    }
    for name, shape in wanted.items():
        value = getattr(scored, name)
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(
                f"{name}: found shape {tuple(value.shape)}, wanted {shape} to go with action {(B, T)} and ok {(B, K)}"
            )
    for name in ("top_lt", "top_ids"):
        value = getattr(scored, name)
        if value is not None and (value.ndim != 3 or tuple(value.shape[:2]) != (B, T)):
            raise ValueError(f"{name}: found shape {tuple(value.shape)}, wanted {(B, T)} and the top tokens")
    if bool((scored.action & scored.guided).any()):
        raise ValueError("guided: found tokens that are also action; a token was written by the student or the teacher")
    if bool((scored.action & ((scored.turn < 0) | (scored.turn >= K))).any()):
        raise ValueError(f"turn: found action tokens outside turns 0 to {K - 1}, wanted an explicit turn for each")
