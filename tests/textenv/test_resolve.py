"""Naming an environment: every right form works, every wrong one says what is wrong and what was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import gymnasium
import pytest

import trpd_envs.tools
from trpd_agents.errors import EnvironmentFailure, UserError
from trpd_agents.textenv import EnvSpec, ToolEnv, ToolError, check_environment, list_envs, make, tool

COUNTER = """
    import gymnasium
    from gymnasium.spaces import Text

    LOADED = []

    class Counter(gymnasium.Env):
        '''Say the number of the turn. An ordinary Gymnasium environment that knows nothing of us.'''

        def __init__(self, target: int = 3, *, prompt="count"):
            if target < 1:
                raise ValueError(f"target is at least 1, found {target}")
            if target > 99:
                raise OSError("the disk is full")
            self.observation_space = Text(100)
            self.action_space = Text(100)
            self.target, self.prompt = target, prompt

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.count = 0
            return self.prompt, {}

        def step(self, action):
            right = action.strip() == str(self.count + 1)
            self.count += right
            return "yes" if right else "no", float(right), self.count == self.target, False, {}

    class Unfinished:
        pass

    class Silent(Counter):
        pass

    class Pixels(Counter):
        def __init__(self):
            super().__init__()
            self.action_space = gymnasium.spaces.Discrete(4)

    constant = 5
"""


@pytest.fixture
def counter_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_env.py"
    path.write_text(dedent(COUNTER))
    return path


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module on the path that registers two environments when it is imported, as a user's package would."""
    before = dict(gymnasium.registry)
    (tmp_path / "user_package.py").write_text(
        dedent(COUNTER)
        + dedent("""
            gymnasium.register("user/Counter-v0", Counter, max_episode_steps=6, reward_threshold=2.0)
            gymnasium.register("user/Broken-v0", "user_package:Missing")
            """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "user_package"
    sys.modules.pop("user_package", None)
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def refusal(spec: EnvSpec | str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        make(spec, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("name", ["KeyChain-v0", "trpd/KeyChain-v0", "trpd_envs:trpd/KeyChain-v0"])
def test_bundled_environments_by_all_their_names(name: str) -> None:
    env = make(name)
    assert env.spec == EnvSpec(name)
    assert env.reset(0) and env.has_expert and env.tools


def test_bundled_names_work_in_a_fresh_process() -> None:
    code = "import sys, trpd_agents.textenv as t; t.make('Courier-v0').reset(1); print('textarena' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"  # textarena takes over a second to import: only when it is asked for


def test_arguments_of_the_call_go_over_those_of_the_spec() -> None:
    env = make(EnvSpec("KeyChain-v0", {"max_turns": 9}), max_turns=11)
    assert env.max_turns == 11 and env.spec.kwargs == {"max_turns": 11}


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("KeyChian-v0", "'KeyChain-v0'"),
        ("keychain", "'KeyChain-v0'"),
        ("trpd/GridLak-v0", "'trpd/GridLake-v0'"),
        ("Minesweeper-v0", "'textarena/Minesweeper-v0'"),
    ],
)
def test_an_unknown_id_is_met_with_what_was_meant(wrong: str, meant: str) -> None:
    message = refusal(wrong)
    assert f"unknown environment {wrong!r}" in message and f"Did you mean {meant}" in message
    assert "'path/to/file.py:Class'" in message


def test_an_unknown_id_near_nothing_lists_the_forms() -> None:
    message = refusal("Zzzzqqq")
    assert "Did you mean" not in message and "'module:Id-v0'" in message


def test_environments_that_are_not_text() -> None:
    message = refusal("CartPole-v1")
    assert "observation_space is Box" in message and "wanted gymnasium.spaces.Text" in message


def test_a_users_registered_environment_works_unmodified(registered: str) -> None:
    env = make(f"{registered}:user/Counter-v0", target=2)
    assert env.max_turns == 6 and env.reward_threshold == 2.0
    assert env.reset(0) == "count"
    assert env.step("1").success is False
    last = env.step("2")
    assert (last.terminated, last.success, last.reward) == (True, True, 1.0)
    env.reset(1)
    steps = [env.step("no idea") for _ in range(6)]
    assert steps[-1].truncated and steps[-1].success is False
    check_environment(env.spec)
    assert make("user/Counter-v0").spec.id == "user/Counter-v0"  # known from here on
    assert make("user/Counter-v0", max_episode_steps=4).max_turns == 4


def test_modules_that_do_not_help(registered: str, tmp_path: Path) -> None:
    assert "there is no module 'nonexistent'" in refusal("nonexistent.deeper:X-v0")
    message = refusal(f"{registered}:user/Countre-v0")
    assert "it registers user/Counter-v0, user/Broken-v0" in message and "Did you mean 'user/Counter-v0'" in message
    assert f"name it '{tmp_path / 'user_package.py'}:Counter'" in refusal(f"{registered}:Counter")
    assert "has no attribute 'Missing'" in refusal(f"{registered}:user/Broken-v0")
    assert "registers none" in refusal("json:X-v0")
    (tmp_path / "half_there.py").write_text("import not_installed_anywhere\n")
    message = refusal("half_there:X-v0")
    assert "needs another module" in message and "half_there.py:1" in message
    (tmp_path / "explodes.py").write_text("x = 1\nx / 0\n")
    message = refusal("explodes:X-v0")
    assert "cannot be imported: ZeroDivisionError" in message and "explodes.py:2" in message


def test_an_environment_from_a_file(counter_file: Path) -> None:
    env = make(EnvSpec(f"{counter_file}:Counter", {"target": 2, "prompt": "go"}))
    assert env.reset(5) == "go"
    assert type(env.env).__module__.startswith("trpd_environment_file_")
    assert "my_env" not in sys.modules
    again = make(f"{counter_file}:Counter")
    assert type(again.env) is type(env.env)  # the file ran once
    counter_file.write_text(dedent(COUNTER).replace("return self.prompt", "return 'edited'"))
    assert make(f"{counter_file}:Counter").reset(0) == "edited"


def test_a_file_may_use_its_neighbours_and_dataclasses(tmp_path: Path, counter_file: Path) -> None:
    (tmp_path / "neighbour_of_env.py").write_text("WORD = 'hi'\n")
    (tmp_path / "uses.py").write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom neighbour_of_env import WORD\n"
        "@dataclasses.dataclass\nclass Data:\n    x: int = 1\n" + dedent(COUNTER)
    )
    path = list(sys.path)
    assert make(f"{tmp_path / 'uses.py'}:Counter").reset(0) == "count"
    assert sys.path == path


def test_files_that_do_not_help(tmp_path: Path, counter_file: Path) -> None:
    assert "Did you mean 'my_env.py'" in refusal(f"{tmp_path}/my_evn.py:Counter")
    assert "there is no folder" in refusal(f"{tmp_path}/nowhere/my_env.py:Counter")
    message = refusal(f"{counter_file}:Conter")
    assert "has no class 'Conter'; it has Counter, Unfinished, Silent, Pixels. Did you mean 'Counter'" in message
    assert "wanted a class that derives from gymnasium.Env" in refusal(f"{counter_file}:Unfinished")
    assert "an object of type int" in refusal(f"{counter_file}:constant")
    assert "action_space is Discrete(4)" in refusal(f"{counter_file}:Pixels")
    (tmp_path / "broken.py").write_text("x = (\n")
    message = refusal(f"{tmp_path}/broken.py:X")
    assert "SyntaxError" in message and "broken.py:1" in message
    (tmp_path / "raises.py").write_text("\nraise RuntimeError('not today')\n")
    message = refusal(f"{tmp_path}/raises.py:X")
    assert "RuntimeError: not today" in message and "raises.py:2" in message
    assert not [module for module in sys.modules.values() if getattr(module, "__file__", "") == f"{tmp_path}/raises.py"]


def test_naming_a_file_without_a_class_does_not_run_it(tmp_path: Path) -> None:
    path = tmp_path / "side_effect.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Here: pass\n")
    message = refusal(str(path))
    assert "does not say which class" in message and "it has Here" in message
    assert not (tmp_path / "ran").exists()


def test_wrong_arguments(counter_file: Path) -> None:
    message = refusal(f"{counter_file}:Counter", tagret=4)
    assert "unexpected keyword argument 'tagret'" in message
    assert "it accepts: target=3, prompt='count'" in message and "Did you mean 'target'" in message
    assert "target is at least 1, found 0" in refusal(f"{counter_file}:Counter", target=0)
    assert "my_env.py" in refusal(f"{counter_file}:Counter", target="many")  # TypeError inside the constructor
    assert "it accepts: length" in refusal("KeyChain-v0", size=3)


def test_a_constructor_that_falls_over_is_not_the_users_mistake(counter_file: Path) -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        make(f"{counter_file}:Counter", target=100)
    assert caught.value.kind == "construct_raised" and "OSError: the disk is full" in caught.value.message


def test_a_tool_environment_in_a_few_lines(tmp_path: Path) -> None:
    path = tmp_path / "safe.py"
    path.write_text(
        dedent("""
        from trpd_agents.textenv import ToolEnv, ToolError, tool

        class Safe(ToolEnv):
            instructions = "Open the safe."

            def start(self):
                self.code = int(self.np_random.integers(3))
                return "A dial from 0 to 2."

            @tool
            def dial(self, number: int) -> str:
                '''Turn the dial.'''
                if not 0 <= number <= 2:
                    raise ToolError("The dial ends at 2.")
                if number == self.code:
                    self.finish(True)
                return "Click."
        """)
    )
    check_environment(f"{path}:Safe")
    env = make(f"{path}:Safe", max_turns=5)
    env.reset(0)
    assert env.instructions == "Open the safe." and env.max_turns == 5
    assert not env.step("open!").ok
    steps = []
    for number in range(3):
        steps.append(env.step(f'<tool_call>{{"name": "dial", "arguments": {{"number": {number}}}}}</tool_call>'))
        if steps[-1].terminated:
            break
    assert steps[-1].success and all(step.ok for step in steps)
    assert (ToolEnv, ToolError, tool) == (trpd_envs.tools.ToolEnv, trpd_envs.tools.ToolError, trpd_envs.tools.tool)


def test_the_list_tells_what_there_is() -> None:
    rows = {row.id: row for row in list_envs()}
    chain = rows["KeyChain-v0"]
    assert chain.tools == ("lookup", "submit") and chain.expert and chain.horizon == make("KeyChain-v0").max_turns
    assert chain.success == "the right value is submitted"
    assert rows["textarena/Mastermind-v0"].expert and not rows["textarena/2048-v0"].expert
    assert "the seed has no effect" in rows["textarena/TowerOfHanoi-v0"].note
    assert rows["textarena/Chess-v0"].status == "needs Python 3.12" and rows["textarena/TicTacToe-v0"].players == "2"
