"""The server that a run began with is the one it goes on with: what it said at the start lies in the run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from trpd_agents.config.server import ServerTeacherConfig
from trpd_agents.run_directory import RunDirectory
from trpd_agents.teacher.server import TeacherServer, open_server


def open_kept_servers(
    sections: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    directory: RunDirectory,
    *,
    top_k: int,
    max_tokens: int,
    writes: bool,
    say: Callable[[str], None],
) -> dict[str, TeacherServer]:
    """The servers among the teachers `sections`, by name; see `open_server`. `writes` is for one of several processes.

    Raises:
        UserError: a server could not teach, or is another model than the one that the run began with.
    """
    servers: dict[str, TeacherServer] = {}
    for name, section in sections.items():
        if not isinstance(section, ServerTeacherConfig):
            continue
        server = open_server(section, tokenizer, top_k=top_k, max_tokens=max_tokens, patient=True, say=say)
        file = f"teacher-server{name and '-'}{name}.json"
        if (began_with := directory.read_json(file)) is not None:
            server.require_same(began_with)
        elif writes:
            directory.write_json(file, server.record())
        servers[name] = server
    return servers
