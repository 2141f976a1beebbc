"""`trpd check`: what it prints, and which exit code a pipeline gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app

ENV = """
import gymnasium
from gymnasium.spaces import Text

class Fine(gymnasium.Env):
    observation_space = action_space = Text(50)  # warned of
    max_turns = 2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn, self.word = 0, str(self.np_random.integers(1000))
        return f"Say {self.word}.", {}

    def step(self, action):
        self.turn += 1
        right = action == self.word
        return "x", float(right), right, self.turn >= 2, {"success": right}

class Bad(Fine):
    def step(self, action):
        return "\\x1b[31m" + str(int(action)), 0.0, True, False, {"success": False}
"""
QUICK = ("-n", "2", "--budget", "0.5")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env.py").write_text(ENV)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["check", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_all_is_well() -> None:
    code, out, _ = run("Courier-v0", "--env-arg", "rooms=3", "--strict", *QUICK)
    assert code == 0 and "Courier-v0: 0 errors, 0 warnings" in out
    assert out.splitlines()[0].split() == ["check", "verdict", "found"] and "\ngarbage " in out


def test_warnings_fail_only_if_asked() -> None:
    code, out, _ = run("env.py:Fine", *QUICK)
    assert code == 0 and "0 errors, 2 warnings" in out
    assert (
        "warning, spaces: observation_space does not hold" in out
        and "  why: " in out
        and "  fix: Use trpd_envs.Text" in out
    )
    assert run("env.py:Fine", "--strict", *QUICK)[0] == 1


def test_errors_fail() -> None:
    code, out, _ = run("env.py:Bad", *QUICK)
    assert code == 1 and "ValueError" in out and "env.py:21" in out and "\x1b" not in out


def test_json_is_all_that_is_printed() -> None:
    code, out, _ = run("env.py:Bad", "--json", *QUICK)
    report = json.loads(out)
    assert code == 1 and report["env"] == "env.py:Bad" and report["kwargs"] == {}
    assert {finding["verdict"] for finding in report["findings"]} == {"ok", "warning", "error", "skipped"}
    assert all(finding["why"] and finding["fix"] for finding in report["findings"] if finding["verdict"] == "error")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Courir-v0"], "Did you mean 'Courier-v0'"),
        (["Courier-v0", "--env-arg", "rooms=1"], "rooms"),
        (["Courier-v0", "--env-arg", "rooms"], "KEY=VALUE"),
        (["nowhere.py:E"], "does not exist"),
        (["env.py:Fin"], "Did you mean 'Fine'"),
    ],
)
def test_a_users_mistake_is_exit_code_2(arguments: list[str], told: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and told in err and "Traceback" not in err


def test_help_teaches_with_examples() -> None:
    code, out, _ = run("--help")
    assert code == 0 and "Examples" in out and "exit code" in out
