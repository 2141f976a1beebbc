"""Playing a stored episode again shows what was right in it, and notices an environment that does something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from trpd_agents.errors import RunError
from trpd_agents.storage import read_trajectories, write_trajectories
from trpd_agents.teacher import action_key, optimal_at_turns
from trpd_agents.textenv import EnvSpec
from trpd_envs import format_call

KEYS = EnvSpec("KeyChain-v0", {"length": 2})


def test_options_are_those_of_the_states_that_were_acted_in(play):
    good = play(KEYS, 3, [None, None, None])
    options = optimal_at_turns(good)
    assert [turn.text for turn in good.turns] == [one.optimal[0] for one in options]
    assert all(one.is_optimal(turn.text) for one, turn in zip(options, good.turns, strict=True))
    wrong = next(text for text in options[1].legal if not options[1].is_optimal(text))
    lost = optimal_at_turns(play(KEYS, 3, [None, wrong, "nothing"]))
    assert lost[:2] == options[:2]
    assert lost[2].optimal == () and len(lost[2].legal) == 4


def test_the_same_from_the_disk(play, tmp_path):
    trajectory = play(EnvSpec("GridLake-v0", {"slippery": True}), 4, ["down", "right", "down", "nonsense", "right"])
    write_trajectories(tmp_path / "one.parquet", [trajectory])
    (stored,) = read_trajectories(tmp_path / "one.parquet")
    assert optimal_at_turns(stored) == optimal_at_turns(trajectory)


def test_when_two_texts_are_the_same_action():
    call = format_call("go", room="hall", speed=2)
    assert action_key(call) == action_key(
        'So: <tool_call>\n{"arguments": {"speed": 2, "room": "hall"}, "name": "go"}\n</tool_call>'
    )
    assert action_key(call) != action_key(format_call("go", room="hall", speed=3))
    assert action_key(call) != action_key(call + call)
    assert action_key(" up\n") == action_key("up") != action_key("Up")
    assert action_key(" <tool_call>{</tool_call>") == "<tool_call>{</tool_call>"


@pytest.fixture
def unsteady(tmp_path) -> Path:
    """A lake whose later instances behave differently, in one way or another."""
    file = tmp_path / "unsteady.py"
    file.write_text(
        "from trpd_envs.gridlake import GridLake\n\n"
        "class Unsteady(GridLake):\n"
        "    made = {}\n\n"
        "    def __init__(self, how='', tag=''):\n"
        "        super().__init__(size=5, holes=0)\n"
        "        self.how, number = how, self.made.setdefault(tag, 0)\n"
        "        self.made[tag] += 1\n"
        "        self.again = number > 0\n\n"
        "    def act(self, action):\n"
        "        said = super().act(action)\n"
        "        if self.again and self.how == 'words':\n"
        "            return said + ' Hm.'\n"
        "        if self.again and self.how == 'end':\n"
        "            self.finish(success=True)\n"
        "        if self.again and self.how == 'fall':\n"
        "            raise RuntimeError('tired')\n"
        "        return said\n"
    )
    return file


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("words", r"is not deterministic under its seed: played again with seed 1 .* observed .*Hm.* before turn 2"),
        ("end", "is not deterministic under its seed: .* it had ended before turn 2"),
        ("fall", r"the episode of seed 1 cannot be played again .*tired"),
    ],
)
def test_an_environment_that_does_something_else_is_noticed(play, unsteady, how, message):
    spec = EnvSpec(f"{unsteady}:Unsteady", {"how": how, "tag": how})
    trajectory = play(spec, 1, ["down", "down", "right"])
    with pytest.raises(RunError, match=f"(?s)unsteady.py:Unsteady.*{message}"):
        optimal_at_turns(trajectory)


def test_a_steady_environment_from_a_file_is_fine(play, unsteady):
    trajectory = play(EnvSpec(f"{unsteady}:Unsteady", {"tag": "steady"}), 1, ["down", "down", "right"])
    assert [set(one.optimal) for one in optimal_at_turns(trajectory)] == [{"down", "right"}] * 3
