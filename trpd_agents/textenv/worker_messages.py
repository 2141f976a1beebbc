"""What a worker process and its parent say to each other: JSON, in both directions.

Invariant: nothing is unpickled, so neither side can make the other run anything by what it sends, and what arrives is
equal to what was sent. Arguments of an environment for which that cannot hold are refused before they are sent.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registration

from trpd_agents.errors import UserError
from trpd_agents.textenv.agent_env import Step
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.episode_env import Opening
from trpd_agents.textenv.resolve import NAMESPACE
from trpd_agents.textenv.spec import EnvSpec


@dataclass(frozen=True)
class Settings:
    """What a worker is told first. `parent` is a process id; `bound` says whether to die with the parent's thread."""

    path: list[str]
    seconds: float
    memory_mb: int | None
    parent: int
    bound: bool


@dataclass(frozen=True)
class Start:
    """How to begin an episode that this worker does not have; what was observed so far in one that another had."""

    spec: EnvSpec
    seed: int
    registration: str | None  # of an id that only the parent knows, see `registration_of`
    opening: str | None = None
    history: Sequence[tuple[str, str]] = ()  # actions, and what was observed after each


# What to do in an episode: `number` is the parent's name for it. ("open", None), ("step", action), ("ask", method) are
# answered, ("close", None) is not.
Command = tuple[int, Start | None, tuple[Literal["open", "step", "ask", "close"], str | None]]
# number, "open" | "step" | "ask" | "failure" | "error", and what belongs to it
Reply = tuple[int, str, Any]


def pack(message: Any) -> bytes:
    """`message`, of plain data; lone surrogates survive as escapes."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def unpack(message: bytes) -> Any:
    return json.loads(message)


def pack_commands(commands: Sequence[Command]) -> bytes:
    return pack([(number, start and _plain(start), what) for number, start, what in commands])


def unpack_commands(message: bytes) -> list[Command]:
    return [(number, start and _start(*start), tuple(what)) for number, start, what in json.loads(message)]


def _plain(start: Start) -> tuple[Any, ...]:
    spec = start.spec
    return spec.id, spec.kwargs, start.seed, start.registration, start.opening, start.history


def _start(name: str, kwargs: dict[str, Any], *rest: Any) -> Start:
    return Start(EnvSpec(name, kwargs), *rest)


def pack_step(step: Step) -> tuple[Any, ...]:
    """As a tuple, which is quicker to send."""
    told = step.observation, step.reward, step.terminated, step.truncated, step.ok, step.success
    return *told, step.draw, step.seat, step.endings


def unpack_step(packed: Sequence[Any]) -> Step:
    *told, endings = packed
    told.append(None if endings is None else tuple(tuple(ending) for ending in endings))
    return Step(*told)


def pack_opening(opening: Opening) -> tuple[Any, ...]:
    """Raises UserError if the environment's tools are no JSON."""
    try:
        json.dumps(opening.tools)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"an environment's `tools` are JSON-schema descriptions; found what is no JSON: {error}"
        ) from None
    return tuple(getattr(opening, field.name) for field in dataclasses.fields(Opening))


def unpack_opening(packed: Sequence[Any]) -> Opening:
    return Opening(*packed)


def registration_of(spec: EnvSpec) -> str | None:
    """What a worker needs to know of an id that was registered in this process, as JSON.

    Raises:
        UserError: it was registered with something that cannot be found from another process, or has arguments that
            cannot be sent to one.
    """
    if not _survives(spec.kwargs):
        raise UserError(
            f"environment {spec.id!r}: arguments are sent to worker processes as JSON, which {spec.kwargs!r:.200} "
            "would not survive; use text, numbers, true, false, null, lists and mappings with text as keys, or set "
            "env.workers to 0"
        )
    registered = gymnasium.registry.get(spec.id)
    if registered is None or spec.id.startswith(f"{NAMESPACE}/"):
        return None
    try:
        if not _survives(registered.kwargs):
            raise ValueError("it was registered with arguments that JSON does not have")
        entry = registered.entry_point
        named = entry if isinstance(entry, str) else _name(entry)
        return dataclasses.replace(registered, entry_point=named, vector_entry_point=None).to_json()
    except Exception as error:
        raise UserError(
            f"environment {spec.id!r} cannot be played in a worker process: {error}; put it into a file or a module "
            "and name it 'path/file.py:Class' or 'module:Id-v0', or set env.workers to 0"
        ) from error


def register(start: Start) -> None:
    """In a worker, make known what only the parent knew."""
    if start.registration is None or start.spec.id in gymnasium.registry:
        return
    found = Registration.from_json(start.registration)
    try:
        module, _, name = str(found.entry_point).partition(":")
        getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UserError(
            f"environment {start.spec.id!r} is registered where the run was started, and a worker process cannot find "
            f"what it was registered with: {blame(error)}; name it 'module:Id-v0', or set env.workers to 0"
        ) from error
    gymnasium.registry[start.spec.id] = found


def _survives(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _name(entry: Any) -> str:
    """Where another process finds a class or a function: `module:name`, as Gymnasium writes it."""
    module, name = getattr(entry, "__module__", None), getattr(entry, "__qualname__", "")
    if module == "__main__":
        raise ValueError("it is defined in the script itself")
    if module is None or getattr(importlib.import_module(module), name) is not entry:
        raise ValueError(f"{entry!r:.100} has no name in a module")
    return f"{module}:{name}"
