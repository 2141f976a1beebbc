"""ThreeCardMonte: every swap is told, so the ball's place is known."""

from __future__ import annotations

from trpd_agents.textenv.textarena_experts.expert import Expert

EXPERT = Expert(
    optimal=lambda game: [f"[{game.ball_pos}]"], legal=lambda game: [f"[{cup}]" for cup in range(game.num_cups)]
)
