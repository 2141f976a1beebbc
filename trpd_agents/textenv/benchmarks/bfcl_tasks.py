"""BFCL's multi-turn tasks as data: requests, tools and reference calls, read from the package `bfcl_eval`.

Invariant: nothing is evaluated. Reference calls are Python text in the package's files; they are read with `ast`, and
only a call of a plain name with literal arguments counts. Tools are JSON schema, from the package's own descriptions.
"""

from __future__ import annotations

import ast
import copy
import functools
import json
from pathlib import Path
from typing import Any

from trpd_agents.textenv.benchmarks.packages import require

CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
_EXTRA = "bfcl"
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def task_list(category: str) -> list[dict[str, Any]]:
    """The tasks of a category, in order. Each has the package's keys, and `ground_truth`: texts of calls per turn."""
    folder = Path(require("bfcl_eval", _EXTRA, f"bfcl/{category}").__file__).parent / "data"
    return _read_tasks(folder, category)


def tool_schemas(apis: list[str], category: str) -> dict[str, dict[str, Any]]:
    """The functions of the simulated APIs, by name, in the format that chat templates read."""
    config = require("bfcl_eval.constants.executable_backend_config", _EXTRA, f"bfcl/{category}")
    folder = Path(require("bfcl_eval", _EXTRA, f"bfcl/{category}").__file__).parent / "data" / "multi_turn_func_doc"
    schemas: dict[str, dict[str, Any]] = {}
    for api in apis:
        for described in _read_lines(folder / config.MULTI_TURN_FUNC_DOC_FILE_MAPPING[api]):
            function = {
                "name": described["name"],
                "description": described["description"],
                "parameters": _json_schema(described["parameters"]),
            }
            schemas[described["name"]] = {"type": "function", "function": function}
    return copy.deepcopy(schemas)


def new_worlds(task: dict[str, Any], category: str) -> dict[str, Any]:
    """The task's simulated APIs in their initial states, by class name. They share nothing with any other."""
    config = require("bfcl_eval.constants.executable_backend_config", _EXTRA, f"bfcl/{category}")
    worlds = {}
    for api in task["involved_classes"]:
        world = getattr(require(config.CLASS_FILE_PATH_MAPPING[api], _EXTRA, f"bfcl/{category}"), api)()
        if api not in config.STATELESS_CLASSES:
            scenario = copy.deepcopy(task["initial_config"].get(api, {}))
            world._load_scenario(scenario, long_context="long_context" in category)
        worlds[api] = world
    return worlds


def read_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, positional and named arguments of a call written in Python. ValueError if it is anything else."""
    node = ast.parse(text.strip(), mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"wanted a call of a plain name, found {text!r:.100}")
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    return node.func.id, [ast.literal_eval(value) for value in node.args], arguments


@functools.cache
def _read_tasks(folder: Path, category: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"BFCL_v*_{category}.json")
    (answers,) = (folder / "possible_answer").glob(f"BFCL_v*_{category}.json")
    truth = {answer["id"]: answer["ground_truth"] for answer in _read_lines(answers)}
    return [{**task, "ground_truth": truth[task["id"]]} for task in _read_lines(file)]


@functools.cache
def _read_lines(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _json_schema(described: dict[str, Any]) -> dict[str, Any]:
    """A description in BFCL's words as JSON schema: its type names translated, null allowed where it is the default."""
    schema: dict[str, Any] = {key: described[key] for key in ("description", "default", "required") if key in described}
    kind = _TYPES.get(described["type"], described["type"])
    schema["type"] = [kind, "null"] if described.get("default", "") in (None, "None") else kind
    if "properties" in described:
        schema["properties"] = {name: _json_schema(inner) for name, inner in described["properties"].items()}
    if kind == "array":
        schema["items"] = _json_schema(described["items"])
    return schema
