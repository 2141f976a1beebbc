"""Episodes as lines for a terminal: the same reading and the same reasons as in the pages.

Invariant: everything is made of `Text`, whose content has passed through `visible`, so nothing that a model wrote can
move the cursor, change a colour or be taken for markup.
"""

from __future__ import annotations

import json
import math

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from trpd_agents.report.chunks import environment
from trpd_agents.report.episodes import GUIDED, KEPT, LOWERED, MASKED, RAISED, UNKNOWN, EpisodeSeen, TurnSeen
from trpd_agents.report.text import one_line, visible
from trpd_agents.report.vocabulary import Vocabulary

STATES = {
    KEPT: "kept",
    RAISED: "raised",
    LOWERED: "down-weighted",
    MASKED: "masked",
    GUIDED: "guided",
    UNKNOWN: "no credit",
}
BARS = {KEPT: "green", RAISED: "blue", LOWERED: "yellow", MASKED: "bright_black", GUIDED: "magenta", UNKNOWN: "white"}

_SCALE = (  # from below which log ratio, in nats, which colours; orange and blue differ for colour-blind eyes too
    (-4.0, "white on #b35806"),
    (-2.0, "black on #e08214"),
    (-1.0, "black on #fdb863"),
    (-0.25, "black on #fee3c0"),
    (0.25, ""),
    (1.0, "black on #d3e4f3"),
    (2.0, "black on #9ecae1"),
    (4.0, "black on #4a98c9"),
    (math.inf, "white on #08519c"),
)


def row(seen: EpisodeSeen) -> dict[str, str]:
    """One episode in a table of many."""
    t = seen.trajectory
    masked = sum(turn.state == MASKED for turn in seen.turns)
    return {
        "episode": str(t.id),
        "update": str(seen.step),
        "seed": str(t.seed),
        "outcome": "?" if t.success is None else "success" if t.success else "failure",
        "ended": str(t.outcome),
        "error": "" if t.error is None else one_line(t.error["kind"], 40),
        "turns": str(len(t.turns)),
        "masked": str(masked),
        "kept": "-" if seen.kept_share is None else f"{seen.kept_share:.2f}",
        "reward": f"{t.reward:g}",
    }


def legend() -> Text:
    text = Text("log ratio of teacher to student, nats: ")
    low = -math.inf
    for high, style in _SCALE:
        words = f"<{high:g}" if low == -math.inf else f">{low:g}" if high == math.inf else f"{low:g}..{high:g}"
        text.append(f" {words} ", style or "dim")
        low = high
    return text


def transcript(seen: EpisodeSeen, vocabulary: Vocabulary) -> Group:
    """The whole episode: instructions, and for every turn what was seen, what was written, and what became of it."""
    t = seen.trajectory
    outcome = "outcome not known" if t.success is None else "success" if t.success else "failure"
    kept = "" if seen.kept_share is None else f", kept share {seen.kept_share:.2f}"
    parts: list[Text | Padding] = [
        Text(f"episode {t.id}: {outcome} ({t.outcome}), reward {t.reward:g}{kept}", "bold"),
        Text(
            f"{one_line(environment(t))}, seed {t.seed}, update {seen.step}, policy version {t.policy_version}", "dim"
        ),
    ]
    if t.error is not None:
        parts.append(
            Text(f"the environment failed ({one_line(t.error['kind'], 40)}): {visible(t.error['message'])}", "red")
        )
    parts.append(legend())
    if t.instructions:
        parts.append(Text(visible(t.instructions), "italic"))
    for k, turn in enumerate(seen.turns):
        parts += [Text(""), _heading(k, turn), Padding(Text(visible(turn.played.observation)), (0, 0, 0, 4))]
        parts.append(Padding(_said(seen, turn, vocabulary), (0, 0, 0, 2)))
        for call in turn.played.calls:
            given = json.dumps(call.get("arguments"), ensure_ascii=False)
            parts.append(
                Padding(Text(f"calls {one_line(str(call.get('name')))} {one_line(given, 1000)}", "dim"), (0, 0, 0, 4))
            )
    if t.final_observation:
        parts += [Text(""), Text("last observation", "bold"), Padding(Text(visible(t.final_observation)), (0, 0, 0, 4))]
    return Group(*parts)


def _heading(k: int, turn: TurnSeen) -> Text:
    text = Text()
    text.append("▌", BARS[turn.state])
    text.append(f"turn {k}: {STATES[turn.state]}", "bold")
    if turn.why:
        text.append(f": {turn.why}")
    played = turn.played
    flags = {"refused": not played.ok, "cut off": played.stop == "length", "repeats the turn before": turn.repeat}
    if told := [name for name, holds in flags.items() if holds]:
        text.append(f"  [{', '.join(told)}]", "red")
    if turn.divergence is not None:
        text.append(f"  divergence {turn.divergence:.2f}", "dim")
    return text


def _said(seen: EpisodeSeen, turn: TurnSeen, vocabulary: Vocabulary) -> Text:
    tokens = seen.tokens
    ids = tokens.ids[turn.span].tolist()
    pieces = vocabulary.pieces(ids) or [vocabulary.text(token) for token in ids]
    text = Text()
    for piece, ls, lt in zip(pieces, tokens.ls[turn.span].tolist(), tokens.lt[turn.span].tolist(), strict=True):
        d = lt - ls
        text.append(
            piece, "" if math.isnan(d) else next(style for high, style in _SCALE if d < high or high == math.inf)
        )
    if ids and vocabulary.known:
        return text
    return Text(visible(turn.played.text)) + Text(" " if ids else "") + text
