"""`trpd init`: files to begin with."""

from __future__ import annotations

import builtins
import keyword
import re
import shlex
import sys
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from trpd_agents.errors import UserError

init = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True)


class Kind(StrEnum):
    """`text`: the action is plain text. `tools`: the action is a call of a tool."""

    TEXT = "text"
    TOOLS = "tools"


@init.callback()
def begin() -> None:
    """Write files to begin with.

    Examples:

    - `trpd init env warehouse` writes an environment whose actions are tool calls.
    """


@init.command("env")
def new_env(
    name: Annotated[str, typer.Argument(help="Name of the module; the class gets it in CamelCase.", metavar="NAME")],
    kind: Annotated[Kind, typer.Option(help="How an agent acts: by plain text, or by tool calls.")] = Kind.TOOLS,
    directory: Annotated[Path, typer.Option("--dir", help="Existing directory to write to.", metavar="DIR")] = Path(),
) -> None:
    """Write a small environment that works, with comments, its test, and a recipe to train in it.

    They are NAME.py, test_NAME.py and NAME.yaml. Nothing is overwritten. The next steps are printed.

    Examples:

    - `trpd init env warehouse`
    - `trpd init env riddle --kind text --dir environments`
    """
    class_name = _class_name(name)
    if not directory.is_dir():
        raise UserError(f"--dir {directory}: an existing directory wanted")
    templates = files("trpd_agents.cli.templates")
    source = directory / f"{name}.py"
    written = {
        source: templates / f"{kind}_env.py",
        directory / f"test_{name}.py": templates / "environment_test.py",
        directory / f"{name}.yaml": templates / "recipe.yaml",
    }
    for path in written:
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists already; name another environment, another --dir, or move it away")
    recipe = directory / f"{name}.yaml"
    for path, template in written.items():
        text = template.read_text(encoding="utf-8")
        if path == recipe:  # is read from where the commands are given
            text = text.replace('"new_env.py:', f'"{source.as_posix()}:')
        path.write_text(text.replace("new_env", name).replace("NewEnv", class_name), encoding="utf-8")
    print("\n".join(f"wrote {path}" for path in written))
    print("\nNext:\n" + "\n".join(f"  {line}" for line in _next_steps(source, class_name, recipe)))


def _next_steps(source: Path, class_name: str, recipe: Path) -> list[str]:
    env = shlex.quote(f"{source}:{class_name}")
    steps = {
        f"trpd check {env}": "find out what is wrong with it",
        f"python -m pytest {shlex.quote(str(source.with_name(f'test_{source.name}')))}": "its test",
        f"trpd play {env} --expert": "play it yourself, with the expert's advice",
        f"trpd eval --model builtin:tiny --env {env} -n 32": "an untrained model's success rate",
        f"trpd train {shlex.quote(str(recipe))}": "train a student from a teacher",
    }
    width = max(map(len, steps))
    return [f"{command:<{width}}  # {what}" for command, what in steps.items()]


def _class_name(name: str) -> str:
    """`my_shop` becomes MyShop. Raises `UserError` for a name that a module or the class cannot have."""
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UserError(f"NAME {name!r}: wanted a Python identifier of ASCII letters, digits and '_', such as my_shop")
    if name in sys.stdlib_module_names or name.startswith("test_") or name in ("trpd_envs", "trpd_agents", "gymnasium"):
        raise UserError(f"NAME {name!r}: a file {name}.py would stand in for another module; name it otherwise")
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    taken = {*dir(builtins), *re.findall(r"\w+", "TextEnv ToolEnv ToolError Refused Literal WORDS COINS")}
    if not class_name.isidentifier() or keyword.iskeyword(class_name) or class_name in taken:
        raise UserError(f"NAME {name!r}: the class would be named {class_name!r}, which cannot be; name it otherwise")
    return class_name
