"""`trpd doctor`: what it prints, and which exit code a pipeline gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from trpd_agents.cli import app


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_directory: Callable[..., Path]) -> str:
    sections = {
        "env": {"id": "GuessNumber-v0", "kwargs": {"high": 9, "max_turns": 4}, "workers": 0},
        "student": {"model": str(model_directory(0))},
        "teacher": {"model": str(model_directory(1))},
        "rollout": {"max_new_tokens": 6, "max_tokens": 400},
        "credit": {"preset": "trajectory"},
        "learner": {"lr": 1e-2, "device": "cpu"},
        "training": {"steps": 2, "episodes_per_step": 4},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    monkeypatch.chdir(tmp_path)
    return "recipe.yaml"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_table_with_what_to_do(recipe: str) -> None:
    code, out, _ = run(recipe, "-n", "4")
    assert code == 0 and "recipe.yaml: 0 errors" in out
    heading = next(line for line in out.splitlines() if line.startswith("check "))
    assert heading.split() == ["check", "verdict", "found", "wanted"]
    assert "\nalignment " in out and "\nwarning, teacher: " in out and "\n  do: " in out
    assert {path.name for path in Path().iterdir()} == {"recipe.yaml"}


def test_exit_codes(recipe: str) -> None:
    assert run(recipe, "--quick")[0] == 0
    assert run(recipe, "--quick", "training.ranks=4000", "training.episodes_per_step=4000")[0] == 0
    assert run(recipe, "--quick", "--strict", "training.ranks=4000", "training.episodes_per_step=4000")[0] == 1
    code, out, _ = run(recipe, "--quick", "rollout.max_tokens=4000")
    assert code == 1 and "error, settings: rollout.max_tokens=4000 is more than" in out


def test_json_is_all_that_is_printed(recipe: str) -> None:
    code, out, _ = run(recipe, "-n", "2", "--json")
    report = json.loads(out)
    assert code == 0 and report["config"] == recipe
    assert set(report["findings"][0]) == {"check", "verdict", "found", "wanted", "fix"}
    assert {finding["verdict"] for finding in report["findings"]} <= {"ok", "warning", "skipped"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["nowhere.yaml"], "nowhere.yaml"), (["recipe.yaml", "learner.rl=1"], "learner.rl"), (["recipe.yaml", "x"], "x")],
)
def test_a_users_mistake_is_exit_code_2(recipe: str, arguments: list[str], told: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and told in err and "Traceback" not in err


def test_help_teaches_with_examples() -> None:
    code, out, _ = run("--help")
    assert code == 0 and "Examples" in out and "exit code" in out
