"""What would spoil a run is found before it, in about a second, and said in terms of what to do."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from trpd_agents.errors import UserError
from trpd_agents.textenv import check_environment, list_envs

TEMPLATE = """
    import time
    import gymnasium

    class E(gymnasium.Env):
        max_turns = 4
        turn = 0

        def reset(self, *, seed=None, options=None):
            self.turn = 0
            return "start", {{}}

        def step(self, action):
            self.turn += 1
            over = self.turn >= 4
            return "seen", 0.0, False, over, {{"success": False}}

        def close(self):
            open({closed!r}, "w").close()

    class Variant(E):
{body}
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(body: str) -> str:
        path = tmp_path / "env.py"
        indented = "\n".join("        " + line for line in dedent(body).strip().splitlines())
        path.write_text(dedent(TEMPLATE.format(closed=str(tmp_path / "closed"), body=indented)))
        return f"{path}:Variant"

    return write


def refusal(spec: str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_environment(spec, **kwargs)
    assert spec in str(caught.value)
    return str(caught.value)


def test_a_sound_environment_passes_and_is_closed(written: Any, tmp_path: Path) -> None:
    check_environment(written("pass"))
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("def step(self, action): return ('x', 0, False, False, {})[: 4]", ["bad_observation", "a tuple of 4", "five"]),
        ("def step(self, action): return 7, 0.0, False, False, {}", ["bad_observation", "type int", "turn 1"]),
        ("def step(self, action): return 'x', float('nan'), False, False, {}", ["bad_reward", "nan", "finite"]),
        ("def step(self, action): return 'x', 0.0, 0, False, {}", ["bad_flag", "terminated is 0"]),
        ("def step(self, action): return 'x', 0.0, True, False, {'success': 1}", ["bad_flag", "success", "is 1"]),
        (
            "def step(self, action): return 'x', 0.0, True, False, {}",
            ["bad_flag", "reward_threshold", "nobody can say"],
        ),
        (
            "def step(self, action): return action.split()[5]",
            ["step_raised", "IndexError", "env.py:", "answer any text"],
        ),
        ("def reset(self, *, seed=None, options=None): return 1 / 0", ["reset_raised", "ZeroDivisionError"]),
        ("def reset(self): return 'x', {}", ["reset_raised", "seed", "accept any seed"]),
        ("def reset(self, *, seed=None, options=None): return None, {}", ["bad_observation", "NoneType", "strings"]),
        ("def __init__(self): raise OSError('no disk')", ["construct_raised", "no disk"]),
        ("max_turns = None", ["no turn limit", "set env.max_turns"]),
        (
            "def step(self, action): return 'x', 0.0, False, False, {'success': False}",
            ["limit of 4 turns", "truncated"],
        ),
        ("def step(self, action): return 'x', 0.0, False, False, {}", ["never says whether an episode succeeded"]),
        ("def expert(self): return 3", ["expert() returned 3"]),
        ("instructions = 5", ["`instructions` is a string"]),
        ("tools = [1]", ["`tools` is a list"]),
    ],
)
def test_what_would_spoil_a_run_is_refused(written: Any, body: str, wanted: list[str]) -> None:
    message = refusal(written(body))
    assert [part for part in wanted if part not in message] == []


def test_it_is_closed_after_a_refusal_too(written: Any, tmp_path: Path) -> None:
    refusal(written("def step(self, action): return 7"))
    assert (tmp_path / "closed").exists()


def test_the_runs_turn_limit_serves_where_the_environment_has_none(written: Any) -> None:
    spec = written("max_turns = None\ndef step(self, action): return 'x', 0.0, False, False, {'success': False}")
    check_environment(spec, max_turns=3)


def test_a_reward_threshold_serves_as_success(written: Any) -> None:
    check_environment(written("reward_threshold = 1.0\ndef step(self, action): return 'x', 1.0, True, False, {}"))


def test_later_seeds_are_played_too(written: Any) -> None:
    body = """
        def reset(self, *, seed=None, options=None):
            self.seed = seed
            return super().reset(seed=seed)
        def step(self, action):
            if self.seed == 2:
                raise KeyError('door')
            return super().step(action)
    """
    assert "episode with seed 2" in refusal(written(body))


def test_the_expert_is_played(written: Any) -> None:
    body = """
        def expert(self): return 'by the book'
        def step(self, action):
            if action == 'by the book' and self.turn == 2:
                raise KeyError('page')
            return super().step(action)
    """
    message = refusal(written(body))
    assert "turn 3 of the episode with seed 0, on action 'by the book'" in message


def test_a_slow_environment_does_not_hold_everything_up(written: Any) -> None:
    body = """
        max_turns = 1000
        def step(self, action):
            time.sleep(0.05)
            return 'x', 0.0, False, False, {}
    """
    started = time.monotonic()
    check_environment(written(body))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("name", [row.id for row in list_envs() if "/" not in row.id])
def test_the_bundled_environments_pass(name: str) -> None:
    started = time.monotonic()
    check_environment(name)
    assert time.monotonic() - started < 1.5
