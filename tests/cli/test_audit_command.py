"""`trpd audit`: what it prints and writes, and what it refuses before a model loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app

RECIPE = """
env: {{id: GridLake-v0, kwargs: {{size: 3, holes: 1}}}}
student: {{model: {student}}}
teacher: {{model: {teacher}}}
rollout: {{max_new_tokens: 3, max_tokens: 400}}
credit: {{preset: trajectory}}
learner: {{lr: 1e-3, device: cpu}}
training: {{steps: 1, episodes_per_step: 2}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_directory) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(student=model_directory(0), teacher=model_directory(1)))
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["audit", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> str:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ")
    return err


def test_tables_and_files(recipe: Path) -> None:
    changed = "occupancy credit.rule.budget=8"
    code, out, _ = run(recipe, "env.kwargs.size=4", "-n", 4, "--seed", 9, "--method", changed, "--out", "found")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert "GridLake-v0: the student played 4 episodes, seeds from 9" in out
    assert ["turn", "episodes", "on", "track", "teacher", "right"] in [line[:6] for line in lines]
    assert any(line[:2] == ["occupancy", "yes"] for line in lines) and any(line[:2] == ["tv", "no"] for line in lines)
    assert any(line.startswith(changed) for line in out.splitlines())
    assert "written to found: audit.json, audit.md, turns.parquet" in out
    data = json.loads(Path("found/audit.json").read_text())
    assert list(data["methods"]) == ["recipe", changed] and data["config"]["env"]["kwargs"]["size"] == 4
    assert "already exists and is not empty; name another directory" in refused(recipe, "--out", "found")


def test_another_student(recipe: Path, model_directory) -> None:
    code, out, _ = run(recipe, "-n", 2, "--student", model_directory(2), "--method", "opd")
    assert code == 0 and "the student played 2 episodes" in out


def test_mistakes_are_refused_before_a_model_loads(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("trpd_agents.imitation.load_model", fail)
    assert "did you mean 'tropd'?" in refused(recipe, "--method", "tropdd")
    assert "did you mean 'tropd'?" in refused(recipe, "credit.preset=tropdd")
    assert "write credit.KEY=VALUE" in refused(recipe, "--method", "tropd learner.lr=1")
    assert "found -1.0" in refused(recipe, "--method", "occupancy credit.rule.budget=-1.0")
    assert "cannot be read" in refused(recipe, "--method", "tropd 'credit")
    assert "a preset wanted, found nothing" in refused(recipe, "--method", "")
    assert "teacher.kind: found 'oracle'" in refused(recipe, "teacher={kind: oracle}")
    assert "no configuration file" in refused("nowhere.yaml")
    assert "nowhere" in refused(recipe, "--student", "./nowhere")
    assert run(recipe, "-n", 0)[0] == 2


def test_ctrl_c_is_told_as_it_is(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trpd_agents.imitation.load_model", interrupt)
    code, _, err = run(recipe)
    assert (code, err) == (130, "interrupted; nothing was written\n")


def test_help_teaches_with_examples() -> None:
    code, out, _ = run("--help")
    assert code == 0 and "Examples" in out and "--method" in out
