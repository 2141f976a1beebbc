"""TextWorld's generated games and files, and ALFWorld on a household made here (its own games are a download)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("textworld", reason="textworld is not installed")

from trpd_agents.errors import UserError  # noqa: E402
from trpd_agents.textenv import make  # noqa: E402
from trpd_agents.textenv.benchmarks.textworld import _generated  # noqa: E402

HOUSEHOLD = """
(define (problem small) (:domain alfred)
 (:objects agent1 - agent Apple_bar__minus_01 - object CounterTop_bar__plus_01 - receptacle
  Fridge_bar__plus_02 - receptacle loc1 - location loc2 - location loc3 - location
  AppleType - otype CounterTopType - rtype FridgeType - rtype)
 (:init (= (total-cost) 0) (atLocation agent1 loc3)
  (receptacleType CounterTop_bar__plus_01 CounterTopType) (receptacleType Fridge_bar__plus_02 FridgeType)
  (objectType Apple_bar__minus_01 AppleType) (canContain CounterTopType AppleType) (canContain FridgeType AppleType)
  (pickupable Apple_bar__minus_01) (openable Fridge_bar__plus_02)
  (receptacleAtLocation CounterTop_bar__plus_01 loc1) (receptacleAtLocation Fridge_bar__plus_02 loc2)
  (objectAtLocation Apple_bar__minus_01 loc1) (inReceptacle Apple_bar__minus_01 CounterTop_bar__plus_01))
 (:goal (and (inReceptacle Apple_bar__minus_01 Fridge_bar__plus_02))) (:metric minimize (total-cost)))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "cache"))


def test_generated_games_differ_are_kept_and_show_no_drawing() -> None:
    path = Path(_generated(3, 4, 6, 4))
    made = path.stat().st_mtime_ns
    env = make("textworld/generated")
    env.seconds = 120.0
    first = env.reset(3)
    assert "$$" not in first and not first.startswith("\n") and not first.endswith(">")
    assert path.stat().st_mtime_ns == made  # not generated again
    assert env.reset(4) != first
    env.close()


def test_a_game_file_is_played_whatever_the_seed() -> None:
    path = _generated(3, 2, 3, 2)
    env = make(f"textworld/{path}")
    env.seconds = 120.0
    assert env.reset(1) == env.reset(2)
    while (action := env.expert()) is not None:
        step = env.step(action)
    assert step.success and step.terminated
    env.close()
    with pytest.raises(UserError, match="there is no file"):
        make(f"textworld/{path}.missing.z8")
    with pytest.raises(UserError, match="generated.*game file"):
        make("textworld/generate")


def test_a_nul_does_not_stall_the_interpreter() -> None:
    env = make("textworld/generated").env
    env.reset(seed=3)
    began = time.monotonic()
    for text in ("look\0", "\0", "take \0\0 key"):  # not through AgentEnv, which takes them out as well
        assert env.step(text)[0]
    assert time.monotonic() - began < 60
    env.close()


@pytest.fixture
def household(tmp_path: Path) -> Path:
    pytest.importorskip("fast_downward", reason="fast-downward-textworld is not installed")
    info = pytest.importorskip("alfworld.info", reason="alfworld is not installed")
    grammar = Path(info.ALFRED_TWL2_PATH).read_text().replace("UNKNOWN GOAL", "put an apple in the fridge")
    game = {"pddl_domain": Path(info.ALFRED_PDDL_PATH).read_text(), "grammar": grammar, "pddl_problem": HOUSEHOLD}
    for name, solvable in (("pick_and_place-Apple-1", True), ("pick_and_place-Apple-2", False), ("movable-3", True)):
        folder = tmp_path / "data" / "json_2.1.1" / "train" / name / "trial_T1"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(json.dumps({**game, "solvable": solvable}))
    return tmp_path / "data"


def test_alfworld_is_won_by_its_planner_and_answers_anything(household: Path) -> None:
    env = make("alfworld/train", data=str(household))
    env.seconds = 120.0
    assert len(env.env.unwrapped._games) == 1  # neither the unsolvable nor the unsupported one
    assert "Your task is to: put an apple in the fridge." in env.reset(0)
    for text in ("", "\0", "dance", "x" * 5000, "go to the moon"):
        step = env.step(text)
        assert step.observation and not step.ok and not step.success
    assert env.step("go to fridge 1").ok  # off the plan, from where there is another
    while (action := env.expert()) is not None:
        assert action in env.legal_actions()
        step = env.step(action)
        assert step.ok
    assert step.success and step.terminated and step.reward == 1.0
    env.close()


def test_a_split_without_games_is_said_so(household: Path) -> None:
    with pytest.raises(UserError, match="no playable game"):
        make("alfworld/valid_seen", data=str(household))
