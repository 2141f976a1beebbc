"""The recoverability card: rates that can be known beforehand, and what is said when something cannot be measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.errors import UserError
from trpd_agents.evaluation.card import PLAYS, RANDOM, measure_card
from trpd_agents.evaluation.statistics import wilson_interval
from trpd_agents.textenv import EnvSpec

FILE = '''
from trpd_envs import TextEnv, Refused


class Fuse(TextEnv):
    """Say "on" three times; of the two words that are legal, the other one ends all hope, silently."""

    def __init__(self, broken: int = 0, max_turns: int = 3):
        super().__init__(max_turns)
        self.broken = broken

    def start(self):
        self.said = []
        return "Fuse."

    def act(self, action):
        if self.broken and len(self.said) + 1 == self.broken:
            raise RuntimeError("no power")
        if action not in ("on", "off"):
            raise Refused("What?")
        self.said.append(action)
        if self.said == ["on"] * 3:
            self.finish(True)
        return "Click."


class Known(Fuse):
    def expert(self):
        return None if self.over or "off" in self.said else "on"

    def legal_actions(self):
        return [] if self.over else ["on", "off"]


class NoExpert(Fuse):
    def legal_actions(self):
        return ["on", "off"]


class NoLegal(Fuse):
    def expert(self):
        return "on"


class Unlisted(NoLegal):
    def legal_actions(self):
        return []
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fuse.py"
    path.write_text(FILE)
    return path


def test_each_random_opening_loses_half_of_what_is_left(file: Path) -> None:
    card = measure_card(f"{file}:Known", 400)
    assert list(card.rates) == list(PLAYS) and not card.notes and not card.faults
    means = {play: rate.success.mean for play, rate in card.rates.items()}
    assert means["expert"] == 1 and card.rates["expert"].turns == 3
    for play, chance in {"expert after 1": 1 / 2, "expert after 2": 1 / 4, RANDOM: 1 / 8}.items():
        low, high = wilson_interval(round(chance * 400), 400, confidence=0.9999)
        assert low < means[play] < high
        assert card.rates[play].success[1:] == wilson_interval(round(means[play] * 400), 400)
    assert means["expert after 4"] == means[RANDOM]  # the episode has three turns: the same random actions, all of them
    assert card.rates["expert after 1"].turns == pytest.approx(1 + 2 * means["expert after 1"])


def test_the_seeds_decide_and_a_shorter_episode_is_lost(file: Path) -> None:
    assert measure_card("KeyChain-v0", 10) == measure_card(EnvSpec("KeyChain-v0"), 10)
    later = measure_card("KeyChain-v0", 10, first_seed=5).rates["expert after 1"]
    assert later.episodes == 10
    cut = measure_card(f"{file}:Known", 5, max_turns=2).rates["expert"]
    assert cut.success.mean == 0 and cut.turns == 2


@pytest.mark.parametrize(
    ("name", "plays", "note"),
    [
        ("NoExpert", [RANDOM], "no method expert()"),
        ("NoLegal", ["expert"], "no method legal_actions()"),
        ("Unlisted", ["expert"], "legal_actions() lists none"),
    ],
)
def test_what_cannot_be_measured_is_said_and_the_rest_is(file: Path, name: str, plays: list[str], note: str) -> None:
    card = measure_card(f"{file}:{name}", 5)
    assert list(card.rates) == plays and len(card.notes) == 1 and note in card.notes[0]


def test_what_has_neither_an_expert_nor_legal_actions_has_no_card(file: Path) -> None:
    with pytest.raises(UserError, match=r"Fuse has no card: .*expert\(\).*legal_actions\(\)"):
        measure_card(f"{file}:Fuse", 5)


def test_faults_of_the_environment_are_counted_and_in_no_rate(file: Path) -> None:
    broken = measure_card(EnvSpec(f"{file}:Known", {"broken": 3}), 20)
    assert broken.rates["expert"].episodes == 0 and broken.faults["step_raised"] >= 20
    assert 0 < broken.rates["expert after 1"].episodes < 20  # those that were lost before they came to the third turn
    assert broken.rates["expert after 1"].success.mean == 0


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["envs", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_card_and_refuses_what_makes_no_sense(file: Path) -> None:
    code, out, _ = run("--card", f"{file}:NoExpert", "-n", 7, "--env-arg", "max_turns=1")
    assert code == 0 and "random legal play" in out and "0.000 [0.000, 0.354]" in out and "no method expert()" in out
    for arguments, message in [
        (("--card", "Nowhere-v0"), "Nowhere-v0"),
        (("--card", "Courier-v0", "--textarena"), "--card and --textarena"),
        (("-n", 3), "--episodes is for --card"),
        (("--env-arg", "a=1"), "--env-arg is for --card"),
        (("--card", f"{file}:Fuse"), "has no card"),
        (("--card", "Courier-v0", "--env-arg", "rooms=99"), "rooms=99"),
    ]:
        code, out, err = run(*arguments)
        assert code == 2 and err.startswith("error: ") and message in err, arguments
