"""What is different between the configuration a run was saved with and the one it is to go on with.

A run that goes on with other settings is another run, so a difference has to be meant: it is asked for by name, or it
is one of those that only say how long the run is, where it is played, and what is written down on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from trpd_agents.errors import UserError

FREE = (
    "training.steps",
    "training.environment_steps",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.save_trajectories_every",
    "training.save_top_k",
    "training.doctor",
    "report",
    "evaluation.before",
    "evaluation.teacher",
    "evaluation.every",
    "evaluation.every_environment_steps",
    "env.workers",
    "env.step_seconds",
    "env.memory_mb",
    "tracking",
)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new value of every dotted key that is in both and differs; a whole section where its shape does."""
    return dict(_differences(before, now, ""))


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in before.keys() & now.keys():  # a key that only one of them has came or went with a version
        old, new = before[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("kind") == new.get("kind"):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", (old, new)


def require_meant(before: Mapping[str, Any], now: Mapping[str, Any], meant: Collection[str]) -> list[str]:
    """The keys that differ, if all of them may.

    Args:
        before, now: configurations as plain data.
        meant: dotted keys whose values may differ; a section stands for all of its keys, and the key of a preset or a
            kind for the section it is in.

    Raises:
        UserError: others differ; they are named with both values.
    """
    allowed = [*FREE, *meant, *(key.rpartition(".")[0] for key in meant if key.endswith((".preset", ".kind")))]
    found = differences(before, now)
    unmeant = {key: pair for key, pair in found.items() if not any(_within(key, name) for name in allowed)}
    if unmeant:
        listed = "\n".join(f"  {key}: saved with {old!r}, now {new!r}" for key, (old, new) in sorted(unmeant.items()))
        raise UserError(
            f"the run was saved with other settings than it is to go on with:\n{listed}\nput them back; or, if a "
            "change is meant, name it: trpd train --resume RUN "
            + " ".join(f"{key}=VALUE" for key in sorted(unmeant))
            + " (in Python: may_differ)"
        )
    return sorted(found)


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.") or section.startswith(f"{key}.")
