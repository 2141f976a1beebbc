"""Which code an environment is: what was computed with it holds as long as that code is the same."""

from __future__ import annotations

import hashlib
import inspect
import sys
from pathlib import Path

from trpd_agents.textenv.mixture import MIXTURE, members
from trpd_agents.textenv.resolve import make
from trpd_agents.textenv.spec import EnvSpec


def source_hash(env: EnvSpec) -> str:
    """Of the file that defines the environment's class, and for a package of environments of everything beside it."""
    if env.id == MIXTURE:
        return " ".join(source_hash(member.spec) for member in members(env))
    made = make(env)
    try:
        source = Path(inspect.getfile(type(made.env.unwrapped)))
    except (TypeError, OSError):
        return ""
    finally:
        made.close()
    package = sys.modules.get(type(made.env.unwrapped).__module__.partition(".")[0])
    beside = sorted(source.parent.glob("*.py")) if getattr(package, "__path__", None) else [source]
    digest = hashlib.sha256()
    for file in beside:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
