"""Environment classes from a Python file that the user named, and only from a file that the user named.

The file runs once per version of its content, under a module name of its own, so it can neither shadow an installed
module nor be shadowed by one. Modules beside it can be imported while it loads, with the lowest priority.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import gymnasium

from trpd_agents.errors import UserError
from trpd_agents.textenv.blame import blame
from trpd_agents.textenv.spec import did_you_mean


def load_class(path_text: str, class_name: str | None) -> type[gymnasium.Env]:
    """The `gymnasium.Env` class `class_name` of the file at `path_text`, or a `UserError` that says what is wrong."""
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise UserError(_missing(path))
    if not class_name:
        listed = _has(_classes_in_source(path))
        raise UserError(f"{path_text} does not say which class; wanted '{path_text}:Class'{listed}")
    module = _load(path.resolve())
    found = getattr(module, class_name, None)
    classes = [name for name, value in vars(module).items() if _defined_here(value, module)]
    if found is None:
        raise UserError(
            f"file {path_text} has no class {class_name!r}{_has(classes)}.{did_you_mean(class_name, classes)}"
        )
    if not isinstance(found, type) or not issubclass(found, gymnasium.Env):
        if isinstance(found, type):
            what = f"a class that derives from {', '.join(base.__name__ for base in found.__bases__)}"
        else:
            what = f"an object of type {type(found).__name__}"
        raise UserError(f"{path_text}:{class_name} is {what}; wanted a class that derives from gymnasium.Env")
    return found


def _load(path: Path) -> ModuleType:
    content = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    name = f"trpd_environment_file_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py path always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses look their own module up
    folder = str(path.parent)
    sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"environment file {path} cannot be loaded: {blame(error)}") from error
    finally:
        sys.path.remove(folder)
    return module


def _defined_here(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _classes_in_source(path: Path) -> list[str]:
    """Read from the text, without running it: nobody asked for that yet."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _has(classes: list[str]) -> str:
    return f"; it has {', '.join(classes)}" if classes else "; it defines no class"


def _missing(path: Path) -> str:
    folder = path.parent.resolve()
    if not folder.is_dir():
        return f"environment file {path} does not exist: there is no folder {folder}"
    hint = did_you_mean(path.name, [file.name for file in folder.glob("*.py")])
    return f"environment file {path} does not exist (looked in {folder}).{hint}"
