"""From a YAML file and `key=value` overrides to a `RunConfig`, and back to YAML.

Every mistake is a `UserError` that names all of them at once, one line each, so that a file is mended in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trpd_agents.config.problems import explain
from trpd_agents.config.run import RunConfig
from trpd_agents.config.yaml_file import read_yaml, write_yaml
from trpd_agents.errors import UserError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in the YAML file at `path`, with dotted `key=value` overrides on top; a later one wins."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no configuration file at {path}; give the path of a YAML file, as in configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a text file: {error}") from None
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{path} must hold a mapping (sections such as env, student, teacher); found {type(data).__name__}"
        )
    return parse_config(apply_overrides(data, overrides), source=str(path))


def parse_config(data: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """`data` checked. Raises `UserError` listing every mistake; `source` names where the data came from."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        lines = explain(RunConfig, error)
        raise UserError("\n  ".join([f"{source} cannot be run:", *lines])) from None


def dump_config(config: RunConfig) -> str:
    """All settings of `config`, defaults included, as YAML that `load_config` reads back to an equal configuration."""
    return write_yaml(config.model_dump())


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `dotted.key=value` set; values are YAML, sections on the way are made as needed."""
    merged = _copy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        steps = key.split(".")
        if not equals or not all(steps):
            raise UserError(f"'{override}' is not an override; write section.key=value, for example training.steps=20")
        try:
            value = read_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(f"the value in '{override}' is not valid YAML: {error}") from None
        _set(merged, steps, value, override)
    return merged


def _set(target: dict[str, Any], steps: list[str], value: Any, override: str) -> None:
    for depth, step in enumerate(steps[:-1], start=1):
        below = target.get(step)
        if isinstance(below, str) and steps[0] == "credit":
            below = {"kind": below}  # a part given by its kind's name alone
        if below is None:
            below = {}
        if not isinstance(below, dict):
            path = ".".join(steps[:depth])
            raise UserError(f"'{override}' wants to set a key inside {path}, but {path} is {below!r}, not a section")
        target[step] = below
        target = below
    target[steps[-1]] = value


def _copy(value: Any) -> Any:
    """Mappings copied all the way down, so that overrides never reach the caller's data."""
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value
