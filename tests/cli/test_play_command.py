"""`trpd play`: what is typed is played, what is played is kept, and nothing reaches the terminal as a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.cli.terminal import printable
from trpd_agents.storage import read_trajectories
from trpd_agents.textenv import make
from trpd_agents.textenv.call_line import describe_tool, parse_call
from trpd_agents.trajectory import Outcome

ENV = """
from trpd_envs import TextEnv

class Loud(TextEnv):
    def start(self):
        return "\\x1b[2J\\x07start \\u202e"
    def act(self, action):
        if action == "break":
            raise OSError("no disk")
        return f"you said {action}"
"""
TOOL = {
    "name": "go",
    "parameters": {
        "type": "object",
        "properties": {
            "room": {"type": "string", "description": "where to"},
            "steps": {"type": "integer"},
            "speed": {"type": "number"},
            "quiet": {"type": "boolean"},
            "with": {"type": "array", "items": {"type": "string"}},
            "how": {"type": ["string", "null"], "enum": ["fast", None]},
        },
        "required": ["room"],
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "env.py").write_text(ENV)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def play(*arguments: str, lines: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["play", *arguments], input=lines)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def stored(name: str = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_an_episode_is_played_and_kept() -> None:
    env = make("GuessNumber-v0")
    env.reset(3)
    secret = env.expert()
    lines = ["", "99", str(secret), "//slash"]
    while (action := env.expert()) is not None:
        lines.append(action)
        env.step(action)
    code, out, _ = play("GuessNumber-v0", "--seed", "3", "--out", "out.jsonl", lines="\n".join(lines) + "\n")
    assert code == 0 and "1 of 1 episodes succeeded" in out and "(not accepted)" in out and "reward 1" in out
    (episode,) = stored()
    assert [turn["text"] for turn in episode["turns"]][:3] == ["99", secret, "/slash"]
    assert [turn["ok"] for turn in episode["turns"]][:3] == [False, True, False]
    assert {turn["author"] for turn in episode["turns"]} == {"person"}
    assert episode["success"] is True and episode["seed"] == 3 and episode["outcome"] == "terminated"
    assert episode["turns"][0]["observation"] == "Guess a number from 1 to 31." and episode["error"] is None


def test_calls_are_written_from_their_arguments_and_parquet_reads_back() -> None:
    env = make("Courier-v0")
    env.reset(0)
    room = json.loads(str(env.expert())[11:-12])["arguments"]["room"]
    lines = f"/call go room={room}\n/call go roum=x\n/call fly\n/call\n/call go room='\n/quit\n"
    code, out, _ = play("Courier-v0", "--out", "out.parquet", lines=lines)
    assert code == 0 and out.count("not sent: ") == 4 and "Did you mean 'room'" in out
    (episode,) = read_trajectories(Path("out.parquet"))
    assert [turn.calls for turn in episode.turns] == [[{"name": "go", "arguments": {"room": room}}]]
    assert episode.turns[0].ok and episode.success is None and episode.outcome is Outcome.ERROR
    assert episode.error is not None and episode.error["kind"] == "interrupted"
    assert episode.instructions == env.instructions and episode.tools == env.tools and len(episode.tokens) == 0


def test_commands_show_and_play_nothing() -> None:
    code, out, _ = play("GuessNumber-v0", lines="/expert\n/legal\n/tools\n/help\n/expret\n/quit\n")
    assert code == 0 and "expert: 16" in out and "\n  31\n" in out and "there are no tools" in out
    assert "/call    NAME ARG=VALUE" in out and "Did you mean '/expert'" in out and "stopped" in out
    assert "expert: 16" in play("GuessNumber-v0", "--expert", lines="")[1]  # unasked
    assert "this environment has none" in play("env.py:Loud", lines="/expert\n/legal\n")[1]


def test_several_episodes_have_seeds_of_their_own() -> None:
    code, out, _ = play("GuessNumber-v0", "-n", "3", "--max-turns", "1", "--out", "out.jsonl", lines="1\n1\n")
    assert code == 0 and "--max-turns is reached" in out
    assert [(episode["seed"], episode["outcome"]) for episode in stored()] == [(0, "max_turns"), (1, "max_turns")]


def test_what_environments_write_cannot_command_the_terminal() -> None:
    _, out, _ = play("env.py:Loud", lines="red \x1b[31m\n")
    assert "start" in out and "you said red" in out and not set(out) & set("\x1b\x07\u202e")
    assert printable("a\tb\nc é 漢 👩‍👩‍👧\r\n") == "a\tb\nc é 漢 👩‍👩‍👧\n"
    assert printable("\x9b31m\ud800\x00\r\u2066") == "⟨U+009B⟩31m⟨U+D800⟩␀␍⟨U+2066⟩"


def test_an_environment_that_fails_is_told_and_what_was_played_is_kept() -> None:
    code, out, err = play("env.py:Loud", "--out", "out.jsonl", lines="hello\nbreak\n")
    assert code == 1 and "no disk" in err and "trpd check env.py:Loud" in err and "Traceback" not in err
    (episode,) = stored()
    assert episode["error"]["kind"] == "step_raised" and episode["success"] is None and len(episode["turns"]) == 1


def test_a_model_is_watched_and_its_tokens_are_kept(model_directory: Callable[..., Path]) -> None:
    arguments = ("GridLake-v0", "--model", str(model_directory()), "--max-turns", "3", "--max-new-tokens", "4")
    code, out, _ = play(*arguments, "--expert", "--out", "out.parquet")
    (episode,) = read_trajectories(Path("out.parquet"))
    assert code == 0 and out.count("expert: ") == len(episode.turns) > 0
    index = episode.authored("student")
    assert index.sum() == sum(turn.action[1] - turn.action[0] for turn in episode.turns) > 0
    assert np.isfinite(episode.logprobs[index]).all() and np.isnan(episode.logprobs[~index]).all()
    assert play(*arguments)[1].count("\n> ") == len(episode.turns)
    stepped = play(*arguments, "--step", lines="\n")[1]
    assert stepped.count("\n> ") + stepped.count("Enter goes on > ") == 1 and "stopped" in stepped


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Courir-v0"], "Did you mean 'Courier-v0'"),
        (["env.py:Loud", "--expert"], "has none"),
        (["Courier-v0", "--step"], "--step is for watching a model"),
        (["Courier-v0", "--out", "env.py"], "ends in .jsonl or .parquet"),
        (["Courier-v0", "--out", "nowhere/a.jsonl"], "an existing directory"),
        (["Courier-v0", "--model", "builtin:nosuch"], "builtin:nosuch"),
    ],
)
def test_mistakes_are_named_before_anything_is_played(arguments: list[str], told: str) -> None:
    code, out, err = play(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and told in err


def test_an_existing_file_is_not_overwritten() -> None:
    Path("out.jsonl").write_text("precious")
    assert "exists already" in play("Courier-v0", "--out", "out.jsonl")[2]
    assert Path("out.jsonl").read_text() == "precious"


def test_ctrl_c_keeps_what_was_played() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from trpd_agents.cli import main; main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "play", "GuessNumber-v0", "--out", "out.jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(b"31\n\xff\xfe\n")
    child.stdin.flush()
    seen = b""
    while b"Answer with a number" not in seen:
        seen += os.read(child.stdout.fileno(), 4096)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0 and b"stopped" in out and err == b""
    assert [turn["text"] for turn in stored()[0]["turns"]] == ["31", "\ufffd\ufffd"]


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("go room=hall", {"room": "hall"}),
        ('go room="north hall" steps=2', {"room": "north hall", "steps": 2}),
        ("go room=5 speed=1 quiet=true", {"room": "5", "speed": 1, "quiet": True}),
        ("""go room=a=b with='["rope", "lamp"]' how=null""", {"room": "a=b", "with": ["rope", "lamp"], "how": None}),
        ("go", {}),
    ],
)
def test_values_have_the_types_of_the_schema(line: str, arguments: dict) -> None:
    call = json.loads(parse_call(line, [TOOL]).removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call == {"name": "go", "arguments": arguments}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("go steps=two", "go: steps='two': wanted integer"),
        ("go steps=1.5", "wanted integer"),
        ("go quiet=1", "wanted boolean"),
        ("go steps=true", "wanted integer"),
        ("go with=rope", "wanted list of string"),
        ("go hall", "'hall' is not ARG=VALUE; go takes: room"),
        ("og", "no tool is named 'og'"),
    ],
)
def test_values_that_do_not_fit_are_told(line: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_call(line, [TOOL])
    assert told in str(caught.value)


def test_a_schema_is_readable() -> None:
    first, *lines = describe_tool(TOOL).splitlines()
    assert first == "go room=... [steps=...] [speed=...] [quiet=...] [with=...] [how=...]"
    assert lines[0] == "    room (string): where to" and lines[-1] == '    how ("fast" | null)'
    assert lines[4] == "    with (list of string)"


def test_help_teaches_with_examples() -> None:
    code, out, _ = play("--help")
    assert code == 0 and "Examples" in out and "/expert" in out
