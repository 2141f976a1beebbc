"""The command line without a model: what is refused, what is printed, which exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents import __version__
from trpd_agents.cli import app
from trpd_agents.errors import UserError
from trpd_agents.interrupt import Interrupted

RECIPE = """
env: {id: KeyChain-v0, kwargs: {length: 3}}
student: {model: builtin:tiny}
teacher: {model: builtin:tiny}
credit: {preset: opd}
learner: {lr: 1e-3}
training: {steps: 2, episodes_per_step: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> str:
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("error: ")
    return err


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["envs"], ["sft"]])
def test_help_teaches_with_examples(command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Examples" in out if command else all(name in out for name in ("train", "eval", "envs", "sft"))


def test_version() -> None:
    assert run("--version") == (0, f"trpd {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["train", "--nosuch"], ["eval"], ["eval", "--model", "m", "-n", "0"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2 and err.startswith("Usage: ")


# ---- train ----


def test_dry_run_prints_a_configuration_that_loads_and_writes_nothing(recipe: Path) -> None:
    code, out, err = run("train", recipe, "--dry-run", "training.steps=7", "credit.gate=off", "seed=3")
    assert code == 0 and "steps: 7" in out and "nothing was written" in err
    assert os.listdir(recipe.parent) == [recipe.name]
    again = recipe.with_name("again.yaml")
    again.write_text(out)
    assert run("train", again, "--dry-run")[1] == out


def test_dry_run_tries_the_environment(recipe: Path) -> None:
    assert "KeyChain" in refused_after_print("train", recipe, "--dry-run", "env.id=KeyChian-v0")
    assert "length" in refused_after_print("train", recipe, "--dry-run", "env.kwargs={lenght: 3}")


def refused_after_print(*arguments: object) -> str:
    code, _, err = run(*arguments)
    assert code == 2 and err.startswith("error: ")
    return err


def test_mistakes_in_a_recipe_are_one_block_without_a_traceback(recipe: Path) -> None:
    message = refused("train", recipe, "learner.lr=-1", "trainin.steps=3")
    assert "learner.lr" in message and "did you mean 'training'" in message and "Traceback" not in message


def test_train_needs_a_recipe_or_a_run() -> None:
    assert "a recipe is needed" in refused("train")


def test_an_existing_run_directory_is_not_written_into(recipe: Path) -> None:
    taken = recipe.parent / "taken"
    taken.mkdir()
    assert run("train", recipe, "--dry-run", "--run-dir", taken)[0] == 0  # empty: free to use
    (taken / "config.yaml").write_text("")
    message = refused("train", recipe, "--dry-run", "--run-dir", taken)
    assert f"--resume {taken}" in message and "another directory" in message


def test_resume_takes_the_configuration_from_the_run(recipe: Path) -> None:
    directory = recipe.parent / "run"
    directory.mkdir()
    recipe.rename(directory / "config.yaml")
    assert "steps: 2" in run("train", "--resume", directory, "--dry-run")[1]
    assert "steps: 9" in run("train", "training.steps=9", "--resume", directory, "--dry-run")[1]
    assert "leave out --run-dir" in refused("train", "--resume", directory, "--run-dir", "other")
    assert "no config.yaml there" in refused("train", "--resume", "nowhere")


# ---- eval and sft ----

EVAL = ("eval", "--model", "builtin:tiny", "--env", "KeyChain-v0")
SFT = ("sft", "--env", "KeyChain-v0", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*EVAL, "--env-arg", "length"], "--env-arg 'length' is not KEY=VALUE"),
        ([*EVAL, "--env-arg", "length=[1"], "not valid YAML"),
        (
            [*EVAL, "--json", "nowhere/result.json"],
            "--json nowhere/result.json: a file in an existing directory wanted",
        ),
        ([*EVAL, "--compare", "builtin:tiny"], "is the model itself"),
        (["eval", "--model", "builtin:nosuch", "--env", "KeyChain-v0"], "builtin:nosuch"),
        (["eval", "--model", "builtin:tiny", "--env", "KeyChian-v0"], "KeyChian-v0"),
        ([*SFT], "either --expert or --teacher"),
        ([*SFT, "--expert", "--teacher", "m"], "either --expert or --teacher"),
        ([*SFT, "--expert", "--lr", "0"], "--lr 0.0: a positive learning rate wanted"),
        ([*SFT, "--expert", "--model", "builtin:nosuch"], "builtin:nosuch"),
    ],
)
def test_mistakes_are_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2 and expected in err
    assert os.listdir(tmp_path) == []


def test_sft_does_not_write_into_a_directory_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("precious")
    assert "already exists" in refused("sft", "--env", "KeyChain-v0", "--expert", "--out", tmp_path)


# ---- envs ----


def test_envs_lists_bundled_environments_or_textarena() -> None:
    code, out, _ = run("envs")
    assert code == 0
    heading, *rows = out.splitlines()
    assert heading.split() == ["id", "success", "turns", "tools", "expert"]
    assert any(row.startswith("KeyChain-v0 ") and row.endswith("yes") for row in (r.rstrip() for r in rows))
    assert "textarena/" not in out
    listed = run("envs", "--textarena")[1]
    assert "textarena/FrozenLake-v0 " in listed and "KeyChain-v0" not in listed


# ---- how it ends ----


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("found [x], wanted y"), 2, "error: found [x], wanted y\n"),
        (Interrupted("stopped after step 3"), 130, "stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_causes_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("trpd_agents.textenv.list_envs", fail)
    found, out, err = run("envs")
    assert (found, out) == (code, "") and err.startswith(message)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trpd_agents.textenv.list_envs", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("envs")


def test_the_console_script_ends_on_ctrl_c_with_130() -> None:
    # A shell lets what it starts in the background ignore Ctrl-C, and so would this child if the tests run there.
    code = textwrap.dedent("""
        import signal, time, trpd_agents.textenv
        from trpd_agents.cli import main
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def wait():
            print("waiting", flush=True)
            time.sleep(60)
        trpd_agents.textenv.list_envs = wait
        import sys
        sys.argv = ["trpd", "envs"]
        main()
    """)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and err.startswith("interrupted") and "Traceback" not in err
