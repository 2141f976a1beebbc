"""From an `EnvSpec` to a running environment.

Registration is Gymnasium's own; nothing is registered here. Every way in which a name or its arguments can be wrong
ends in a `UserError` before an episode starts.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator

from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv import benchmarks
from trpd_agents.textenv.agent_env import AgentEnv
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.env_file import load_class
from trpd_agents.textenv.mixture import MIXTURE, MixedEnv
from trpd_agents.textenv.spec import EnvSpec, did_you_mean
from trpd_agents.textenv.textarena_matches import RANDOM, SCRIPTED_OPPONENTS, is_for_two

BUNDLED = "trpd_envs"  # the module that registers the bundled environments, under the namespace below
NAMESPACE = "trpd"
TEXTARENA = "textarena/"

_FILE = re.compile(r"(?P<path>.*\.py)(?::(?P<name>\w*))?")
# Keywords of `gymnasium.make` itself, which reach no constructor.
_MAKE_KEYWORDS = {"max_episode_steps"}


def make(spec: EnvSpec | str, **kwargs: Any) -> AgentEnv:
    """The environment `spec` names, ready to `reset`. `kwargs` go to its constructor, over those of the spec.

    Raises `UserError` when the name or the arguments are wrong, `EnvironmentFailure("construct_raised")` when the
    constructor falls over for a reason that is not its arguments.
    """
    if isinstance(spec, str):
        spec = EnvSpec(spec)
    if kwargs:
        spec = EnvSpec(spec.id, {**spec.kwargs, **kwargs})
    if spec.id == MIXTURE:
        return MixedEnv(spec)
    env = build(spec)
    for name in ("observation_space", "action_space"):
        _require_text(spec, env, name)
    return AgentEnv(env, spec)


def build(spec: EnvSpec) -> gymnasium.Env:
    """The bare environment, whatever its spaces; raises what `make` raises."""
    if spec.id.startswith(TEXTARENA):
        game = spec.id.removeprefix(TEXTARENA)
        return _construct(spec, _textarena(game, spec.kwargs), game=game, **spec.kwargs)
    if found := benchmarks.find(spec.id):
        benchmark, task = found
        return _construct(spec, functools.partial(benchmark.load(), task), **spec.kwargs)
    if file := _FILE.fullmatch(spec.id):
        return _construct(spec, load_class(file["path"], file["name"]), **spec.kwargs)
    registered = _registered(spec.id)
    constructor = _constructor(registered)
    constructor_kwargs = {key: value for key, value in spec.kwargs.items() if key not in _MAKE_KEYWORDS}
    _check_arguments(spec, constructor, {**registered.kwargs, **constructor_kwargs})
    # Gymnasium's passive checker warns about text spaces that are fine and costs time; AgentEnv checks instead.
    return _construct(spec, gymnasium.make, registered, disable_env_checker=True, **spec.kwargs)


def _textarena(game: str, kwargs: Mapping[str, Any]) -> Callable[..., gymnasium.Env]:
    """What plays this game of textarena, which takes a second to import."""
    if not is_for_two(game):
        from trpd_agents.textenv.textarena_env import TextArenaEnv

        return TextArenaEnv
    if kwargs.get("opponent", RANDOM) in SCRIPTED_OPPONENTS:
        from trpd_agents.textenv.two_player_env import TwoPlayerEnv

        return TwoPlayerEnv
    from trpd_agents.textenv.two_player_seats import BothSeatsEnv

    return BothSeatsEnv


def _registered(env_id: str) -> Registered:
    """The Gymnasium registration behind an id in any of the registered forms."""
    registry = gymnasium.registry
    module_name, _, name = env_id.rpartition(":")
    if module_name:
        _import(module_name, env_id)
        if name in registry:
            return registry[name]
        raise UserError(_not_registered(module_name, name))
    if name not in registry:
        _import_bundled()
    for candidate in (name, f"{NAMESPACE}/{name}"):
        if candidate in registry:
            return registry[candidate]
    raise UserError(f"unknown environment {env_id!r}.{did_you_mean(env_id, known_ids())} {_FORMS}")


_FORMS = (
    "An environment is named by a bundled or registered id ('KeyChain-v0', 'trpd/KeyChain-v0'), 'module:Id-v0', "
    "'path/to/file.py:Class', 'textarena/Name-v0' or a benchmark such as 'babyai/GoToLocal-v0'; `trpd envs` lists "
    "those that come with this package."
)


def known_ids() -> list[str]:
    """Every id that could have been meant: bundled by their short names first, textarena's, all registered ones."""
    from trpd_agents.textenv.textarena_games import table

    _import_bundled()
    bundled = [env_id.removeprefix(f"{NAMESPACE}/") for env_id in bundled_ids()]
    return [*bundled, *(TEXTARENA + game for game in table()), *benchmarks.benchmark_ids(), *gymnasium.registry]


def bundled_ids() -> list[str]:
    """The registered ids of the bundled environments."""
    _import_bundled()
    return [env_id for env_id in gymnasium.registry if env_id.startswith(f"{NAMESPACE}/")]


def _import_bundled() -> None:
    try:
        importlib.import_module(BUNDLED)
    except ModuleNotFoundError as error:
        if error.name != BUNDLED:
            raise


def _import(module_name: str, env_id: str) -> None:
    try:
        importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(
                f"environment {env_id!r}: there is no module {error.name!r} to import. Install the package that has it "
                "or put its folder on PYTHONPATH; a single file is named 'path/to/file.py:Class'."
            ) from None
        raise UserError(
            f"environment {env_id!r}: importing module {module_name!r} needs another module: {blame(error)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"environment {env_id!r}: module {module_name!r} cannot be imported: {blame(error)}") from error


def _not_registered(module_name: str, name: str) -> str:
    module = importlib.import_module(module_name)
    path = getattr(module, "__file__", None)
    if isinstance(getattr(module, name, None), type) and path:
        return (
            f"module {module_name!r} registers no environment {name!r}, but has a class of that name: "
            f"name it '{path}:{name}', or register it with gymnasium.register"
        )
    top = module_name.split(".")[0]
    own = [env_id for env_id, registered in gymnasium.registry.items() if _comes_from(registered, top)]
    listed = f"; it registers {', '.join(own)}" if own else "; it registers none (gymnasium.register does)"
    return f"module {module_name!r} registers no environment {name!r}{listed}.{did_you_mean(name, own)}"


def _comes_from(registered: Registered, top: str) -> bool:
    entry = registered.entry_point
    origin = entry if isinstance(entry, str) else getattr(entry, "__module__", "") or ""
    return re.split(r"[.:]", origin)[0] == top


def _constructor(registered: Registered) -> Callable[..., Any]:
    entry = registered.entry_point
    if callable(entry):
        return entry
    try:
        return load_env_creator(str(entry))
    except (Exception, SystemExit) as error:
        raise UserError(
            f"environment {registered.id!r}: its entry point {entry!r} cannot be loaded: {blame(error)}"
        ) from error


def _check_arguments(spec: EnvSpec, constructor: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """Refuse arguments the constructor does not take, by its signature, before it does anything."""
    try:
        signature = inspect.signature(constructor)
    except (TypeError, ValueError):  # builtins may have none
        return
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        named = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        accepted = ", ".join(str(p.replace(annotation=p.empty)) for p in named) or "none"
        names = [p.name for p in named]
        unknown = [key for key in kwargs if key not in names]
        hint = did_you_mean(unknown[0], names) if unknown else ""
        raise UserError(f"environment {spec.id!r}: {error}; it accepts: {accepted}.{hint}") from None


def _construct(spec: EnvSpec, constructor: Callable[..., Any], *args: Any, **kwargs: Any) -> gymnasium.Env:
    if not args:
        _check_arguments(spec, constructor, kwargs)
    try:
        return constructor(*args, **kwargs)
    except (UserError, EnvironmentFailure):
        raise
    except ValueError as error:
        raise UserError(f"environment {spec.id!r} refuses its arguments {spec.kwargs}: {error}") from error
    except (TypeError, ImportError, NotImplementedError) as error:
        raise UserError(f"environment {spec.id!r} cannot be made with {spec.kwargs}: {blame(error)}") from error
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(
            "construct_raised", f"environment {spec.id!r} cannot be made with {spec.kwargs}: {blame(error)}"
        ) from error


def _require_text(spec: EnvSpec, env: gymnasium.Env, name: str) -> None:
    space = getattr(env, name, None)
    if space is None or isinstance(space, gymnasium.spaces.Text):
        return  # undeclared is fine: what the environment really returns is checked as it plays
    raise UserError(
        f"environment {spec.id!r} is not a text environment: its {name} is {space!r:.120}; wanted "
        "gymnasium.spaces.Text. Agents read and write text: wrap it so that observations and actions are strings."
    )
