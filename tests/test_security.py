"""The claims of SECURITY.md, as far as a test can hold them."""

from __future__ import annotations

import ast
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from trpd_agents.checkpoints import Checkpoint
from trpd_agents.cli import app
from trpd_agents.config.load import load_config, parse_config
from trpd_agents.config.trust import trusted_models
from trpd_agents.errors import UserError
from trpd_agents.progress import Progress
from trpd_agents.run_directory import RunDirectory
from trpd_agents.safe_text import visible
from trpd_agents.teacher import http
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.worker_messages import pack_commands, registration_of, unpack_commands

ROOT = Path(__file__).parents[1]
FILES = sorted(p for folder in ("trpd_agents", "envs/trpd_envs") for p in (ROOT / folder).rglob("*.py"))
RECIPE = """
env: {id: GuessNumber-v0}
student: {model: nowhere}
teacher: {model: nowhere}
credit: {preset: opd}
learner: {lr: 0.1}
training: {steps: 1, episodes_per_step: 1}
"""


# What the code may not do

FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BETWEEN_PROCESSES = {"dist.all_gather_object": "distributed.py", "multiprocessing": "examine.py"}
"""Pickles that a process gets from a child that it started itself, and where. SECURITY.md names both."""


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, str]]]:
    """Every call as dotted name and keyword arguments, both as they are written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def faults(source: str) -> list[str]:
    """What a module does that it may not."""
    tree = ast.parse(source)
    found = [f"imports {name}" for name in imports(tree) if name.partition(".")[0] in UNPICKLING]
    for name, keywords in calls(tree):
        last = name.rpartition(".")[2]
        if name in FORBIDDEN or keywords.get("shell") == "True" or last in ("extractall", "load_module"):
            found.append(f"calls {name}")
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append("calls torch.load without weights_only")
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            found.append("calls numpy.load without allow_pickle=False")
        if name.startswith("yaml.load") and keywords.get("Loader") not in ("_Loader", "yaml.SafeLoader"):
            found.append("calls yaml.load without a safe loader")
        if last == "from_pretrained" and "AutoModel" in name and keywords.get("use_safetensors") != "True":
            found.append("loads weights that may be pickles")
        if keywords.get("trust_remote_code") == "True":
            found.append("trusts remote code unasked")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_does_what_it_may_not(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x')",
        "yaml.load('x', Loader=yaml.Loader)",
        "AutoModelForCausalLM.from_pretrained('x')",
        "AutoTokenizer.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_the_walk_notices(source: str) -> None:
    assert faults(source)


def test_pickles_between_processes_are_where_it_is_said() -> None:
    found: dict[str, set[str]] = {"dist.all_gather_object": set(), "multiprocessing": set()}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {name for name, _ in calls(tree)}
        if any("gather_object" in name or "scatter_object" in name or "broadcast_object" in name for name in called):
            found["dist.all_gather_object"].add(path.name)
        if called & {"multiprocessing.get_context", "multiprocessing.Process", "multiprocessing.Pool"}:
            found["multiprocessing"].add(path.name)
    assert found == {name: {file} for name, file in BETWEEN_PROCESSES.items()}


# Files that bring code


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    torch.save({"loop": Bomb(mark)}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        Checkpoint(0, tmp_path).state()
    assert not mark.exists()
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert mark.exists()  # it would have


def test_kept_scores_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    array = np.empty(1, dtype=object)
    array[0] = Bomb(mark)
    np.savez(tmp_path / "scores.npz", lt=array)
    with zipfile.ZipFile(tmp_path / "scores.npz") as stored:
        content = stored.read("lt.npy")
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(io.BytesIO(content), allow_pickle=False)
    assert not mark.exists()


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path, model_directory: Any) -> None:
    import shutil

    from trpd_agents.models import load_model

    folder, mark = Path(shutil.copytree(model_directory(0), tmp_path / "model")), tmp_path / "exploded"
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError):
        load_model(str(folder), device=torch.device("cpu"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [{mark}]", "!!python/name:os.system", "!!python/tuple [1]"]
)
def test_a_configuration_with_code_is_refused(tmp_path: Path, tag: str) -> None:
    mark, file = tmp_path / "exploded", tmp_path / "recipe.yaml"
    file.write_text(f"{RECIPE}\nseed: {tag.format(mark=mark)}\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(file)
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(write(tmp_path / "plain.yaml", RECIPE), [f"seed={tag.format(mark=mark)}"])
    assert not mark.exists()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_environment_files_run_only_when_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envs").mkdir()
    for file in ("env.py", "envs/bad.py", "conftest.py", "trpd_envs_extra.py"):
        write(tmp_path / file, f"open({str(tmp_path / 'exploded')!r}, 'w')\n")
    write(tmp_path / "recipe.yaml", RECIPE)
    for arguments in (["envs"], ["train", "recipe.yaml", "--dry-run"], ["methods"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert not (tmp_path / "exploded").exists()
    named = CliRunner().invoke(app, ["train", "recipe.yaml", "env.id=env.py:Thing", "--dry-run"])
    assert named.exit_code == 2 and (tmp_path / "exploded").exists()


def test_what_is_sent_to_a_worker_is_json() -> None:
    spec = EnvSpec("x.py:Y", {"a": [1, 2.5, None, {"b": True}], "c": "\ud800\x00"})
    from trpd_agents.textenv.worker_messages import Start

    sent = [(7, Start(spec, 3, None, "seen", [("go", "gone")]), ("open", None)), (8, None, ("step", "\udfff"))]
    message = pack_commands(sent)
    assert message.isascii() and b"pickle" not in message
    ((number, start, what), other) = unpack_commands(message)
    assert (number, what, other) == (7, ("open", None), (8, None, ("step", "\udfff")))
    assert start is not None and (start.spec, start.seed, start.opening) == (spec, 3, "seen")
    for unsendable in ({"a": (1, 2)}, {"a": {1: 2}}, {"a": object()}, {"a": {1, 2}}):
        with pytest.raises(UserError, match=r"sent to worker processes as JSON.*or set env.workers to 0"):
            registration_of(EnvSpec("x.py:Y", unsendable))


# Models' own code


def test_trusted_code_is_named() -> None:
    data = load_config_data()
    assert trusted_models(parse_config(data)) == []
    data["student"]["trust_remote_code"] = True
    data["teacher"] = {
        "kind": "routed",
        "teachers": {"a": {"model": "m", "trust_remote_code": True}},
        "routes": {"*": "a"},
    }
    assert trusted_models(parse_config(data)) == ["student (nowhere)", "teacher.teachers.a (m)"]


def load_config_data() -> dict[str, Any]:
    from trpd_agents.config.yaml_file import read_yaml

    return read_yaml(RECIPE)


def test_it_is_said_at_the_start_and_written_down(model_directory, tmp_path: Path) -> None:
    file = write(tmp_path / "recipe.yaml", RECIPE.replace("nowhere", str(model_directory(0))))
    small = ["env.kwargs.high=3", "env.kwargs.max_turns=2", "rollout.max_new_tokens=3", "evaluation.episodes=1"]
    run = tmp_path / "run"
    trusting = [*small, "student.trust_remote_code=true", "report=false", "training.doctor=false"]
    found = CliRunner().invoke(app, ["train", str(file), *trusting, "--run-dir", str(run)])
    said = found.output.replace("\n", " ")
    assert found.exit_code == 0, found.output
    assert f"trust_remote_code: Python code that comes with the model is run: student ({model_directory(0)})" in said
    assert "trust_remote_code: true" in (run / "config.yaml").read_text()


# Terminals

HOSTILE = "ok\x1b[31m\x1b]0;title\x07\x9b2J\r\x08\u202eevil\u2066\x00"


def clean(text: str) -> bool:
    return not set(text) & set("\x1b\x07\x9b\r\x08\u202e\u2066\x00")


def test_errors_progress_and_tables_cannot_command_the_terminal(tmp_path: Path, capsys, monkeypatch) -> None:
    from trpd_agents.cli.show import show_table

    Progress().say(HOSTILE)
    show_table([{"model": HOSTILE, "rate": HOSTILE}])
    said = capsys.readouterr().out
    assert clean(said) and "ok" in said
    found = CliRunner().invoke(app, ["train", str(tmp_path / HOSTILE.replace("\x00", ""))])
    assert found.exit_code == 2 and clean(found.output) and "no configuration file" in found.output
    assert clean(visible(HOSTILE))


# Secrets


def test_a_key_and_the_environment_are_in_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    monkeypatch.setenv("UNRELATED_TOKEN", "also-very-secret")
    directory = RunDirectory.create(tmp_path / "run", RECIPE)
    with directory.locked():
        written = b"".join(file.read_bytes() for file in directory.path.rglob("*") if file.is_file())
    assert b"very-secret" not in written
    endpoint = http.Endpoint("http://127.0.0.1:9/v1", key_env="MY_KEY", patience=0.0, timeout=1.0)
    with pytest.raises(http.Unavailable) as error:
        endpoint.get("models")
    assert "very-secret" not in str(error.value) + repr(vars(error.value))
    assert endpoint._clean("you sent Bearer sk-very-secret") == "you sent Bearer ***"


@pytest.mark.parametrize(
    "url", ["http://me:pass@host/v1", "http://me@host/v1", "http://host/v1?key=pass", "http://host/v1#pass"]
)
def test_addresses_with_secrets_are_refused_and_not_repeated(url: str) -> None:
    data = load_config_data()
    data["teacher"] = {"kind": "server", "url": url, "model": "m"}
    with pytest.raises(UserError, match="without user, password or query") as error:
        parse_config(data)
    assert "pass" not in re.sub("password", "", str(error.value))
    found = CliRunner().invoke(app, ["eval", "--model", "m", "--env", "GuessNumber-v0", "--endpoint", url])
    assert found.exit_code == 2 and "pass" not in found.output.replace("password", "")
