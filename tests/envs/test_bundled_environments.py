"""What every bundled environment promises: Gymnasium's contract, determinism, experts that win, and a turn limit."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import trpd_envs  # noqa: F401 -- registers
from trpd_envs import Text

IDS = [env_id for env_id in gymnasium.registry if env_id.startswith("trpd/")]
DIFFICULTIES = ("-easy", "", "-hard")

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("Courier", {}),
    ("Courier", {"locking": False}),
    ("Courier", {"rooms": 3, "items": 1, "max_turns": 5}),
    ("Courier", {"rooms": 8, "items": 5, "max_turns": 20}),
    ("Courier", {"rooms": 12, "items": 12}),
    ("Courier", {"words": 4, "max_turns": 8}),
    ("KeyChain", {}),
    ("KeyChain", {"undo": True}),
    ("KeyChain", {"length": 1, "decoys": 1, "max_turns": 2}),
    ("KeyChain", {"length": 10, "decoys": 7}),
    ("KeyChain", {"length": 2, "decoys": 1, "words": 7, "colours": 2}),
    ("GridLake", {}),
    ("GridLake", {"size": 2}),
    ("GridLake", {"size": 4, "holes": 8, "max_turns": 6}),
    ("GridLake", {"size": 7, "holes": 24}),
    ("GuessNumber", {}),
    ("GuessNumber", {"low": -3, "high": 4, "max_turns": 4}),
    ("GuessNumber", {"low": 0, "high": 100_000}),
    ("CalcTools", {}),
    ("CalcTools", {"numbers": 2, "max_turns": 2}),
    ("CalcTools", {"numbers": 5}),
    ("MiniFS", {}),
    ("MiniFS", {"files": 1, "directories": 0, "changes": 3}),
    ("MiniFS", {"files": 4, "directories": 1, "changes": 5, "max_turns": 7}),
    ("Hanoi", {}),
    ("Hanoi", {"disks": 4, "max_turns": 15}),
    ("Mastermind", {}),
    ("Mastermind", {"length": 2, "digits": 9}),
    ("Mastermind", {"length": 4, "digits": 9, "max_turns": 13}),
    ("SqlDesk", {}),
    ("SqlDesk", {"links": 1, "decoys": 0, "rows": 4, "max_turns": 4}),
    ("SqlDesk", {"links": 5, "decoys": 6, "max_turns": 9}),
    ("Calendar", {}),
    ("Calendar", {"meetings": 3, "people": 2, "days": 5, "busy": 70, "orders": 2, "max_turns": 3}),
    ("Calendar", {"meetings": 6, "people": 4, "days": 3, "busy": 80, "orders": 0}),
    ("Shop", {}),
    ("Shop", {"products": 2, "kinds": 1, "wanted": 4, "max_turns": 4}),
    ("Shop", {"products": 16, "kinds": 6, "max_turns": 11}),
]

# Who does not know everything may be lucky: what is best then need not be what turns out to be shortest.
LUCK = {"GuessNumber", "Shop", "Mastermind"}


def make(name: str, **kwargs: Any) -> Any:
    return gymnasium.make(f"trpd/{name}-v0", **kwargs).unwrapped


def play(env: Any, actions: list[str] | None = None) -> list[Any]:
    """Steps with the given actions, or the expert's until it has none; returns the results of `step`."""
    results = []
    while (action := (actions.pop(0) if actions else None) if actions is not None else env.expert()) is not None:
        results.append(env.step(action))
    return results


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_checker_accepts(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_every_environment_has_three_difficulties_and_a_harder_one_takes_the_expert_no_fewer_turns() -> None:
    names = sorted({env_id.removeprefix("trpd/").split("-")[0] for env_id in IDS})
    assert sorted(IDS) == sorted(f"trpd/{name}{difficulty}-v0" for name in names for difficulty in DIFFICULTIES)
    for name in names:
        turns = []
        for difficulty in DIFFICULTIES:
            env = gymnasium.make(f"trpd/{name}{difficulty}-v0").unwrapped
            lengths = []
            for seed in range(20):
                env.reset(seed=seed)
                results = play(env)
                assert results[-1][4]["success"], (name, difficulty, seed)
                lengths.append(len(results))
            turns.append(sum(lengths))
        assert turns[0] < turns[1] < turns[2], (name, turns)


def test_module_prefixed_id_takes_knobs() -> None:
    env = gymnasium.make("trpd_envs:trpd/KeyChain-v0", length=5)
    assert env.unwrapped.length == 5
    env.reset(seed=0)
    assert env.unwrapped.expert() is not None and env.unwrapped.tools and env.unwrapped.instructions


@pytest.mark.parametrize(("name", "kwargs"), SETTINGS)
def test_expert_always_succeeds_and_says_none_at_the_end(name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        assert observation in env.observation_space and info.pop("hint", "") in ("", env.unwrapped.hint())
        assert info == {"success": False, "ok": True}
        results = play(env)
        assert results, (seed, observation)
        assert all(
            r[4] == {"success": False, "ok": True} and r[1] == 0.0 and not r[2] and not r[3] for r in results[:-1]
        )
        assert results[-1][1:] == (1.0, True, False, {"success": True, "ok": True})
        assert env.expert() is None


@pytest.mark.parametrize("env_id", IDS)
def test_seed_decides_everything_and_instances_do_not_mix(env_id: str) -> None:
    def transcript(env: Any, seed: int, other: Any = None) -> list[Any]:
        lines: list[Any] = [env.reset(seed=seed)]
        while (action := env.expert()) is not None:
            if other is not None and other.expert() is None:
                other.reset()
            if other is not None:
                other.step(other.expert())
            lines += [action, env.step(action)]
        return lines + [env.reset()]  # an unseeded reset goes on with the same stream

    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), pickle.dumps(np.random.get_state())
    env, other = gymnasium.make(env_id).unwrapped, gymnasium.make(env_id).unwrapped
    other.reset(seed=99)
    alone = [transcript(env, seed) for seed in range(10)]
    assert [transcript(env, seed, other) for seed in range(10)] == alone
    assert len({repr(t) for t in alone}) > 5
    assert (random.getstate(), pickle.dumps(np.random.get_state())) == states


def test_slippery_lake_is_deterministic_under_its_seed() -> None:
    env = make("GridLake", slippery=True)
    first, second = ([env.reset(seed=3), *play(env)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("env_id", IDS)
def test_turn_limit_truncates_and_then_a_reset_is_needed(env_id: str) -> None:
    env = gymnasium.make(env_id).unwrapped
    with pytest.raises(ResetNeeded, match="reset"):
        env.step("before the first reset")
    env.reset(seed=0)
    for turn in range(env.max_turns):
        observation, reward, terminated, truncated, info = env.step("\0 neither a call nor a move")
        assert info == {"success": False, "ok": False} and reward == 0.0 and not terminated
        assert truncated == (turn == env.max_turns - 1) and observation in env.observation_space and observation
    with pytest.raises(ResetNeeded, match="reset"):
        env.step("up")
    assert env.expert() is None
    env.reset()
    env.step("up")


@pytest.mark.parametrize("env_id", IDS)
def test_an_action_that_is_not_text_is_the_callers_mistake(env_id: str) -> None:
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=0)
    with pytest.raises(TypeError, match="str"):
        env.step(3)


@pytest.mark.parametrize("env_id", IDS)
def test_episodes_can_be_pickled_and_continued(env_id: str) -> None:
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=4)
    env.step(env.expert())
    assert play(pickle.loads(pickle.dumps(env))) == play(env)


@pytest.mark.parametrize(
    ("name", "kwargs", "knob"),
    [
        ("Courier", {"rooms": 2}, "rooms"),
        ("Courier", {"rooms": 13}, "rooms"),
        ("Courier", {"items": 0}, "items"),
        ("Courier", {"items": True}, "items"),
        ("Courier", {"locking": "off"}, "locking"),
        ("Courier", {"max_turns": 3}, "max_turns"),
        ("Courier", {"words": 3}, "words"),
        ("Courier", {"rooms": 3, "items": 5, "words": 4}, "words"),
        ("Courier", {"words": 13}, "words"),
        ("Courier", {"words": True}, "words"),
        ("KeyChain", {"length": 0}, "length"),
        ("KeyChain", {"decoys": 8}, "decoys"),
        ("KeyChain", {"length": 40}, "length"),
        ("KeyChain", {"undo": 1}, "undo"),
        ("KeyChain", {"max_turns": 4}, "max_turns"),
        ("KeyChain", {"words": 20}, "words"),
        ("KeyChain", {"words": 500}, "words"),
        ("KeyChain", {"colours": 3}, "colours"),
        ("KeyChain", {"colours": 9}, "colours"),
        ("GridLake", {"size": 1}, "size"),
        ("GridLake", {"holes": 9}, "holes"),
        ("GridLake", {"slippery": None}, "slippery"),
        ("GridLake", {"max_turns": 5}, "max_turns"),
        ("GuessNumber", {"low": 3, "high": 3}, "low"),
        ("GuessNumber", {"high": 2.5}, "high"),
        ("GuessNumber", {"max_turns": 4}, "max_turns"),
        ("SqlDesk", {"links": 0}, "links"),
        ("SqlDesk", {"decoys": 7}, "decoys"),
        ("SqlDesk", {"rows": 3}, "rows"),
        ("SqlDesk", {"max_turns": 4}, "max_turns"),
        ("Calendar", {"meetings": 9}, "meetings"),
        ("Calendar", {"people": 1}, "people"),
        ("Calendar", {"days": 0}, "days"),
        ("Calendar", {"hours": 9}, "hours"),
        ("Calendar", {"meetings": 5, "days": 1, "hours": 8}, "days"),
        ("Calendar", {"busy": 91}, "busy"),
        ("Calendar", {"orders": 4}, "orders"),
        ("Calendar", {"max_turns": 3}, "max_turns"),
        ("Shop", {"products": 1}, "products"),
        ("Shop", {"kinds": 7}, "kinds"),
        ("Shop", {"wanted": "all"}, "wanted"),
        ("Shop", {"max_turns": 6}, "max_turns"),
    ],
)
def test_nonsense_knobs_are_refused_by_name(name: str, kwargs: dict[str, Any], knob: str) -> None:
    with pytest.raises(ValueError, match=rf"{knob}=.*(wanted|needs)"):
        make(name, **kwargs)


def harmless_actions(env: Any) -> list[str]:
    """Actions that the present state accepts, and that do not end the episode by themselves."""
    return [action for action in env.legal_actions() if '"submit"' not in action]


def open_randomly(env: Any, rng: random.Random, moves: int) -> None:
    for _ in range(moves):
        actions = harmless_actions(env)
        if env.over or not actions:
            return
        env.step(rng.choice(actions))


def steps_left(env: Any) -> int | None:
    """Turns that the expert needs from here; None when it knows no way. `env` stays as it is."""
    copied = copy.deepcopy(env)
    play(copied)
    return copied.turn - env.turn if copied.success else None


@pytest.mark.parametrize(("name", "kwargs"), [s for s in SETTINGS if s[0] not in LUCK])
def test_optimal_actions_are_those_that_leave_one_turn_less_to_play(name: str, kwargs: dict[str, Any]) -> None:
    """Of all the legal ones, tried one by one, from states that anybody may have come to."""
    env = make(name, **kwargs)
    rng = random.Random(1)
    several = 0
    for seed in range(15):
        env.reset(seed=seed)
        open_randomly(env, rng, seed % 5)
        if env.over:
            continue
        needed = steps_left(env)
        good = []
        for action in env.legal_actions():
            tried = copy.deepcopy(env)
            _, _, _, _, info = tried.step(action)
            assert info["ok"], (seed, action)
            left = 0 if tried.success else steps_left(tried)
            if needed is not None and left is not None:
                assert left >= needed - 1, (seed, action, "the expert's way was not a shortest one")
                good += [action] * (left == needed - 1)
        assert set(env.optimal_actions()) == set(good) and len(env.optimal_actions()) == len(good), seed
        assert env.expert() == (env.optimal_actions()[0] if good else None)
        several += len(good) > 1
    assert several or name != "GridLake" or kwargs  # by default there is often more than one way over the lake


@pytest.mark.parametrize(("name", "kwargs"), [s for s in SETTINGS if "100_000" not in str(s)])
def test_any_optimal_action_leads_on_to_success(name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    rng = random.Random(2)
    for seed in range(40):
        env.reset(seed=seed)
        needed = steps_left(env)
        while actions := env.optimal_actions():
            assert set(actions) <= set(env.legal_actions()) or name in {"GuessNumber", "Mastermind"}
            env.step(rng.choice(actions))
        assert env.success and (env.turn == needed or name == "GuessNumber"), seed
        assert env.optimal_actions() == env.legal_actions() == []


def test_guesses_halve_what_is_left_whichever_middle_is_taken() -> None:
    env = make("GuessNumber", low=1, high=12)
    for seed in range(20):
        env.reset(seed=seed)
        assert env.optimal_actions() == ["6", "7"]
        env.secret = 9
        env.step("6")
        assert env.optimal_actions() == ["9", "10"] and env.expert() == "9"
        env.step("8"), env.step("11")
        assert env.optimal_actions() == ["9", "10"]
        env.step("10")
        assert env.optimal_actions() == ["9"]
        env.step("9")
        assert env.success


@pytest.mark.parametrize(("high", "count"), [(31, 31), (1000, 1000), (1001, 1000), (100_000, 1000)])
def test_a_large_range_lists_a_thousand_numbers(high: int, count: int) -> None:
    env = make("GuessNumber", low=1, high=high)
    env.reset(seed=0)
    legal = env.legal_actions()
    assert len(set(legal)) == count and legal[0] == "1" and legal[-1] == str(high)
    assert sorted(map(int, legal)) == list(map(int, legal))


def test_on_a_slippery_lake_all_equally_good_moves_are_optimal() -> None:
    env = make("GridLake", size=4, slippery=True, holes=0)
    env.reset(seed=0)
    while not env.over:  # without holes the lake is its own mirror image, so on the diagonal a move has a twin
        actions = env.optimal_actions()
        if env.cell[0] == env.cell[1]:
            twin = {"down": "right", "right": "down", "up": "left", "left": "up"}
            assert set(actions) == {twin[action] for action in actions}
        assert env.expert() == actions[0] and env.legal_actions() == ["up", "down", "left", "right"]
        env.step(actions[0])


@pytest.mark.parametrize(("name", "kwargs"), [s for s in SETTINGS if s[0] != "GuessNumber"])
def test_expert_from_any_state_solves_or_says_none(name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    rng = random.Random(0)
    lost = 0
    for seed in range(60):
        env.reset(seed=seed)
        open_randomly(env, rng, 1 + seed % 4)
        results = play(env)
        assert env.success or not results, (seed, "the expert gave an action and then did not succeed")
        lost += not env.success
    assert lost < 60


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Courier", {"locking": False, "max_turns": 40}),
        ("KeyChain", {"undo": True, "max_turns": 40}),
        ("GuessNumber", {}),
        ("Hanoi", {}),
        ("Mastermind", {"max_turns": 20}),
    ],
)
def test_in_the_controls_every_mistake_can_be_repaired(name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    rng = random.Random(0)
    for seed in range(60):
        env.reset(seed=seed)
        open_randomly(env, rng, 1 + seed % 8)
        play(env)
        assert env.success, seed


@pytest.mark.parametrize("name", ["Courier", "KeyChain", "GridLake", "Calendar", "CalcTools", "MiniFS"])
def test_in_the_others_a_mistake_can_last(name: str) -> None:
    env = make(name, max_turns=40)
    rng = random.Random(0)
    lost = 0
    for seed in range(60):
        env.reset(seed=seed)
        open_randomly(env, rng, 4)
        lost += env.expert() is None and not env.success
    assert lost > 10


def test_text_space_accepts_any_text_and_stays_cheap() -> None:
    space = Text(max_length=5)
    assert all(text in space for text in ["", "a\nb", "žÄ漢\0", "\ud800"])
    assert "123456" not in space and 3 not in space and None not in space
    assert space == Text(max_length=5) != Text(max_length=6)
    assert pickle.loads(pickle.dumps(space)) == space and repr(space) == "Text(max_length=5)"
    samples = [Text(seed=1).sample() for _ in range(2)]
    assert samples[0] == samples[1]
    space.seed(0)
    drawn = {space.sample() for _ in range(50)}
    assert len(drawn) > 20 and all(text in space and text.isascii() for text in drawn)
    with pytest.raises(ValueError, match="max_length"):
        Text(max_length=-1)
