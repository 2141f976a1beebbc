"""Episodes as data files that a page loads one at a time: `index.js`, which lists them all in columns, `vocabulary.js`,
and `chunk-NNNN.js` with the episodes themselves.

Invariant: a chunk closes once it holds `CHUNK_BYTES`, so the page never loads much more than it shows and the writer
never holds more than one chunk and the columns of the index. Everything that a model or an environment wrote has passed
through `visible`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from trpd_agents.credit import DESCRIPTIONS
from trpd_agents.credit.config import HysteresisRule, OccupancyRule, Rule, StopRule
from trpd_agents.report.episodes import GUIDED, EpisodeSeen, Tokens, TurnSeen
from trpd_agents.report.text import one_line, script, visible
from trpd_agents.report.vocabulary import Vocabulary
from trpd_agents.trajectory import Trajectory

CHUNK_BYTES = 400_000
ALTERNATIVES = 5
"""The teacher's likeliest tokens that are shown, of those that were stored."""

MILLI = 1000
"""Log-probabilities are whole thousandths of a nat; what is not finite is one of these two."""
NONE, MINUS_INFINITY = 9_999_999, -9_999_999

INDEX = (
    "step", "id", "seed", "env", "success", "outcome", "error", "reward", "turns", "tokens", "kept", "divergence",
    "guided", "refused", "cut", "chunk", "place",
)  # fmt: skip


class ChunkWriter:
    """Writes under `folder`; `prefix` is what its files are called in the page, as in `a/index`."""

    def __init__(self, folder: Path, prefix: str, vocabulary: Vocabulary):
        self._folder, self._prefix, self._vocabulary = folder, prefix, vocabulary
        self._columns: dict[str, list[Any]] = {name: [] for name in INDEX}
        self._names: dict[str, dict[str, int]] = {"env": {}, "outcome": {}, "error": {}}
        self._ids: set[int] = set()
        self._chunk: list[str] = []
        self._texts: dict[str, int] = {}
        self._bytes = self._chunks = 0
        folder.mkdir(parents=True)

    def add(self, seen: EpisodeSeen) -> None:
        self._list(seen)
        self._ids.update(np.unique(seen.tokens.ids).tolist())
        text = json.dumps(self._episode(seen), separators=(",", ":"), allow_nan=False)
        self._chunk.append(text)
        self._bytes += len(text)
        if self._bytes >= CHUNK_BYTES:
            self._close()

    def finish(self) -> None:
        """Write the last chunk, the index and the vocabulary."""
        if self._chunk:
            self._close()
        names = {name: [one_line(key) for key in known] for name, known in self._names.items()}
        self._write("index", {"columns": self._columns, "names": names})
        texts = {token: self._vocabulary.text(token) for token in sorted(self._ids)}
        reasons = {int(reason): words for reason, words in DESCRIPTIONS.items()}
        self._write("vocabulary", {"texts": texts, "reasons": reasons})

    def _close(self) -> None:
        # the episodes are JSON already
        body = f'{{"texts":{json.dumps(list(self._texts))},"episodes":[{",".join(self._chunk)}]}}'
        name = f"chunk-{self._chunks:04d}"
        head = f"trpd.give({json.dumps(f'{self._prefix}/{name}')},"
        (self._folder / f"{name}.js").write_text(f"{head}{body.replace('<', chr(92) + 'u003c')});\n", encoding="ascii")
        self._chunk, self._texts, self._bytes = [], {}, 0
        self._chunks += 1

    def _write(self, name: str, data: Any) -> None:
        (self._folder / f"{name}.js").write_text(script(f"{self._prefix}/{name}", data), encoding="ascii")

    def _list(self, seen: EpisodeSeen) -> None:
        t = seen.trajectory
        divergences = [turn.divergence for turn in seen.turns if turn.divergence is not None]
        row = {
            "step": seen.step,
            "id": t.id,
            "seed": t.seed,
            "env": self._name("env", environment(t)),
            "success": None if t.success is None else int(t.success),
            "outcome": self._name("outcome", str(t.outcome)),
            "error": None if t.error is None else self._name("error", t.error["kind"]),
            "reward": _number(t.reward),
            "turns": len(t.turns),
            "tokens": len(seen.tokens.ids),
            "kept": None if seen.kept_share is None else round(seen.kept_share, 3),
            "divergence": round(max(divergences), 3) if divergences else None,
            "guided": sum(turn.state == GUIDED for turn in seen.turns),
            "refused": sum(not turn.ok for turn in t.turns),
            "cut": sum(turn.stop == "length" for turn in t.turns),
            "chunk": self._chunks,
            "place": len(self._chunk),
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def _name(self, column: str, name: str) -> int:
        known = self._names[column]
        return known.setdefault(name, len(known))

    def _text(self, text: str) -> int:
        """Long texts that episodes share are written once per chunk."""
        return self._texts.setdefault(text, len(self._texts))

    def _episode(self, seen: EpisodeSeen) -> dict[str, Any]:
        t = seen.trajectory
        return {
            "version": t.policy_version,
            "instructions": self._text(visible(t.instructions)),
            "tools": self._text(visible(json.dumps(t.tools, indent=1, ensure_ascii=False))) if t.tools else None,
            "hint": None if t.hint is None else visible(t.hint),
            "final": visible(t.final_observation),
            "error": None if t.error is None else visible(t.error["message"]),
            "turns": [self._turn(turn, seen.tokens) for turn in seen.turns],
            "tokens": self._tokens(seen.tokens),
            **_region(seen.rule),
        }

    def _turn(self, turn: TurnSeen, tokens: Tokens) -> dict[str, Any]:
        played = turn.played
        found: dict[str, Any] = {
            "by": played.author,
            "seen": visible(played.observation),
            "calls": [
                [one_line(str(call.get("name"))), visible(json.dumps(call.get("arguments"), ensure_ascii=False))]
                for call in played.calls
            ],
            "state": turn.state,
            "why": turn.why,
            "end": turn.span.stop,
        }
        said = self._vocabulary.known and turn.span.stop > turn.span.start  # by its tokens
        pieces = self._vocabulary.pieces(tokens.ids[turn.span].tolist())
        optional = {
            "text": None if said else visible(played.text),
            "pieces": pieces,
            "reward": _number(played.reward) or None,
            "refused": 1 if not played.ok else None,
            "cut": 1 if played.stop == "length" else None,
            "repeat": 1 if turn.repeat else None,
            "weight": None if turn.weight is None else round(turn.weight, 3),
            "divergence": None if turn.divergence is None else round(turn.divergence, 3),
            "reach": None if turn.reach is None else round(turn.reach, 2),
        }
        return found | {name: value for name, value in optional.items() if value is not None}

    def _tokens(self, tokens: Tokens) -> dict[str, Any]:
        found: dict[str, Any] = {
            "ids": tokens.ids.tolist(),
            "ls": _milli(tokens.ls),
            "lt": _milli(tokens.lt),
            "policy": _runs(tokens.policy_weight),
            "forward": _runs(tokens.forward_kl_weight),
            "imitation": _runs(tokens.imitation_weight),
            "reason": _runs(tokens.reason),
        }
        if tokens.top_ids is not None and tokens.top_lt is not None:
            top = tokens.top_ids[:, :ALTERNATIVES]
            self._ids.update(np.unique(top).tolist())
            found |= {
                "per_token": top.shape[1],
                "alternatives": top.ravel().tolist(),
                "alternatives_lt": _milli(tokens.top_lt[:, :ALTERNATIVES].ravel()),
            }
        if tokens.entropy is not None:
            found["entropy"] = _milli(tokens.entropy)
        return found


def environment(t: Trajectory) -> str:
    """The environment with its arguments, as one line."""
    return " ".join([t.env_id, *(f"{name}={value}" for name, value in sorted(t.env_kwargs.items()))])


def _region(rule: Rule | None) -> dict[str, Any]:
    """The lines of the chart beside an episode, and what is drawn against them."""
    match rule:
        case OccupancyRule():
            return {"lines": {"budget": -rule.budget}, "drawn": "reach"}
        case HysteresisRule():
            return {"lines": {"enter": _number(rule.enter), "leave": _number(rule.leave)}, "drawn": "divergence"}
        case StopRule():
            return {"lines": {"enter": _number(rule.enter)}, "drawn": "divergence"}
    enter = getattr(rule, "enter", None)
    return {"lines": {} if enter is None else {"enter": _number(enter)}, "drawn": "divergence"}


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _milli(values: np.ndarray) -> list[Any]:
    """Nats as whole thousandths."""
    scaled = np.where(np.isnan(values), NONE, np.where(np.isposinf(values), NONE, values * MILLI))
    return np.where(np.isneginf(values), MINUS_INFINITY, scaled).clip(MINUS_INFINITY, NONE).round().astype(int).tolist()


def _runs(values: np.ndarray | None) -> list[float] | None:
    """Run-length encoded: value, count, value, count, ..."""
    if values is None:
        return None
    if not len(values):
        return []
    edges = np.flatnonzero(np.diff(values)) + 1
    starts = np.concatenate([[0], edges])
    counts = np.diff(np.concatenate([starts, [len(values)]]))
    found = np.empty(2 * len(starts))
    found[0::2], found[1::2] = np.round(values[starts], 3), counts
    return [int(v) if v == int(v) else float(v) for v in found.tolist()]
