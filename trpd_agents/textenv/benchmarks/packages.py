"""What an adapter needs and may not find: a package behind an extra, and Java. Both end in a `UserError`."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.blame import blame

# Packages whose declared dependencies would replace this package's own, and are not needed for the adapter.
_WITHOUT_DEPENDENCIES = {"bfcl": "bfcl-eval"}


def install_command(extra: str) -> str:
    """What to type to have the packages of an extra."""
    command = f"pip install 'trpd-agents[{extra}]'"
    bare = _WITHOUT_DEPENDENCIES.get(extra)
    return f"{command} && pip install --no-deps {bare}" if bare else command


def require(module: str, extra: str, what: str) -> Any:
    """`module`, imported. `what` needs it, and `extra` of this package installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise UserError(
            f"{what} needs the package {missing.partition('.')[0]!r}, which is not installed: {install_command(extra)}"
        ) from error
    except Exception as error:
        raise UserError(f"{what} needs the module {module!r}, which cannot be imported: {blame(error)}") from error


def require_java(what: str) -> None:
    """Raise `UserError` unless a Java runtime is on the path."""
    if shutil.which("java") is None:
        raise UserError(
            f"{what} runs in Java, and there is no 'java' on the path: install a Java runtime, on Debian and Ubuntu "
            "with `apt-get install default-jre-headless`, on macOS with `brew install openjdk`."
        )
