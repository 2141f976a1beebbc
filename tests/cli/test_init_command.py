"""`trpd init`: what it writes works, is checked, tested and trained in as its last lines say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import load_config
from trpd_agents.textenv import EnvSpec, check_environment

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "writing-environments.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def next_steps(out: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in out.partition("Next:\n")[2].splitlines()]


@pytest.mark.parametrize("kind", ["text", "tools"])
def test_what_is_written_passes_its_check_and_its_test(kind: str, folder: Path) -> None:
    code, out, _ = run("init", "env", "my_shop", "--kind", kind)
    assert code == 0 and sorted(os.listdir(folder)) == ["my_shop.py", "my_shop.yaml", "test_my_shop.py"]
    texts = [path.read_text() for path in folder.iterdir()]
    assert not any(re.search("NewEnv|new_env", text) for text in texts)
    code, out, _ = run("check", "my_shop.py:MyShop", "--strict", "-n", "50")
    assert code == 0 and "MyShop: 0 errors, 0 warnings" in out, out
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_my_shop.py"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert tested.returncode == 0 and "12 passed" in tested.stdout, tested.stdout


def test_the_documentation_shows_what_is_written(folder: Path) -> None:
    run("init", "env", "toll")
    assert f"```python\n# toll.py\n{(folder / 'toll.py').read_text()}```\n" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["text", "tools"])
def test_the_next_steps_are_understood(kind: str) -> None:
    Path("our games").mkdir()
    _, out, _ = run("init", "env", "riddle", "--kind", kind, "--dir", "our games")
    steps = next_steps(out)
    assert [words[:2] for words in steps] == [
        ["trpd", "check"],
        ["python", "-m"],
        ["trpd", "play"],
        ["trpd", "eval"],
        ["trpd", "train"],
    ]
    for words in steps:
        if words[0] == "trpd":
            command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
            given = command.make_context(words[1], words[2:]).params
            env = given.get("env")
            if words[1] == "train":
                env = load_config(given["config"]).env.id
            check_environment(EnvSpec(str(env)))
        else:
            assert Path(words[-1]).is_file()
    played = CliRunner().invoke(app, steps[2][1:], input="/quit\n")
    assert played.exit_code == 0 and "expert: " in played.output


@pytest.mark.slow
def test_the_next_steps_are_taken() -> None:
    _, out, _ = run("init", "env", "riddle", "--kind", "text")
    for words in next_steps(out)[3:]:
        code, out, err = run(*words[1:], *(["training.steps=2"] if words[1] == "train" else []))
        assert code == 0, err


def test_nothing_is_overwritten(folder: Path) -> None:
    (folder / "riddle.yaml").write_text("precious")
    code, out, err = run("init", "env", "riddle")
    assert (code, out) == (2, "") and "riddle.yaml exists already" in err
    assert os.listdir(folder) == ["riddle.yaml"] and (folder / "riddle.yaml").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["9lives"], "'9lives': wanted a Python identifier"),
        (["my-shop"], "wanted a Python identifier"),
        (["../shop"], "wanted a Python identifier"),
        (["class"], "wanted a Python identifier"),
        (["größe"], "wanted a Python identifier"),
        (["random"], "stand in for another module"),
        (["gymnasium"], "stand in for another module"),
        (["tool_env"], "would be named 'ToolEnv'"),
        (["_"], "would be named ''"),
        (["shop", "--dir", "nowhere"], "--dir nowhere: an existing directory wanted"),
    ],
)
def test_names_that_cannot_be_are_refused(folder: Path, arguments: list[str], told: str) -> None:
    code, out, err = run("init", "env", *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and told in err
    assert os.listdir(folder) == []


@pytest.mark.parametrize("arguments", [["--help"], ["env", "--help"]])
def test_help_teaches_with_examples(arguments: list[str]) -> None:
    code, out, _ = run("init", *arguments)
    assert code == 0 and "Examples" in out and "trpd init env" in out
