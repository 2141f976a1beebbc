"""Playing held-out episodes: what is counted, and that nothing but model, environment and seed decides it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from trpd_agents.errors import UserError
from trpd_agents.evaluation import evaluate, turn_limit
from trpd_agents.textenv import EnvSpec

FILE = Path(__file__).parents[1] / "rollout" / "scripted_env.py"
ENV = f"{FILE}:Scripted"  # an even seed succeeds, after 3 + seed % 3 turns of reward 0.25, every other of which is ok
GUESS = EnvSpec("GuessNumber-v0", {"high": 3, "max_turns": 2})


def test_counts(make_lm):
    found = evaluate(make_lm(0), ENV, 6, seed=10, max_new_tokens=4)
    assert found.outcomes == {seed: [seed % 2 == 0] for seed in range(10, 16)}
    assert found.episodes == 6 and found.success_rate.mean == 0.5
    turns = [3 + seed % 3 for seed in range(10, 16)]
    assert found.mean_turns == sum(turns) / 6
    assert found.mean_return == pytest.approx(0.25 * sum(turns) / 6)
    assert found.refused_share == pytest.approx(sum(n // 2 for n in turns) / sum(turns))
    assert found.endings == {"terminated": 6}
    assert sum(found.stops.values()) == sum(turns) and set(found.stops) <= {"end", "length"}
    assert sum(turns) <= found.tokens <= 4 * sum(turns)
    assert found.errors == {}


def test_the_summary_is_plain_data(make_lm):
    found = evaluate(make_lm(0), ENV, 4, seed=10, max_new_tokens=3)
    summary = found.summary()
    assert summary["success_rate"] == 0.5 and summary["episodes"] == 4
    low, high = summary["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert not any(key.startswith("pass@") for key in summary)


def test_an_environment_failure_is_counted_by_kind_and_left_out(make_lm):
    env = EnvSpec(ENV, {"fail": "step", "bad_seeds": (10, 13), "failures": 99, "tag": "evaluate-always"})
    found = evaluate(make_lm(0), env, 6, seed=10, max_new_tokens=3)
    assert found.errors == {"step_raised": 2}
    assert sorted(found.outcomes) == [11, 12, 14, 15]
    assert found.episodes == 4 and found.success_rate.mean == 0.5
    assert found.endings == {"terminated": 4}


def test_a_failure_that_passes_changes_nothing(make_lm):
    env = EnvSpec(ENV, {"fail": "step", "bad_seeds": (10, 13), "tag": "evaluate-once"})
    found = evaluate(make_lm(0), env, 6, seed=10, max_new_tokens=3)
    assert found == evaluate(make_lm(0), ENV, 6, seed=10, max_new_tokens=3)


def test_an_environment_that_always_fails_has_no_success_rate(make_lm):
    env = EnvSpec(ENV, {"fail": "reset", "failures": 99, "tag": "evaluate-never"})
    found = evaluate(make_lm(0), env, 3, seed=10)
    assert found.errors == {"reset_raised": 3} and found.episodes == 0
    rate = found.success_rate
    assert math.isnan(rate.mean) and (rate.low, rate.high) == (0, 1)  # nothing is known; above all not 0


def test_repeats_give_pass_at_k(make_lm):
    found = evaluate(make_lm(0), GUESS, 5, repeats=3, max_new_tokens=2)
    assert {len(flags) for flags in found.outcomes.values()} == {3}
    assert found.episodes == 15
    any_solved = sum(any(flags) for flags in found.outcomes.values()) / 5
    assert found.summary()["pass@3"] == pytest.approx(any_solved)


def test_repeats_of_a_seed_draw_different_actions(make_lm):
    played = []
    evaluate(make_lm(0), GUESS, 1, repeats=4, max_new_tokens=6, on_finish=played.append)
    assert len({t.seed for t in played}) == 1
    assert len({t.tokens.tobytes() for t in played}) == 4


def test_the_same_seeds_give_the_same_result_whatever_else_is_played(make_lm):
    def outcomes(episodes: int, seed: int) -> dict[int, list[str]]:
        played = []
        evaluate(make_lm(0), GUESS, episodes, seed=seed, max_new_tokens=3, on_finish=played.append)
        return {t.seed: [turn.text for turn in t.turns] for t in played}

    assert outcomes(6, 50) == outcomes(2, 50) | outcomes(4, 52)


def test_greedy_play_does_not_depend_on_draws(make_lm):
    played = []
    evaluate(make_lm(0), GUESS, 1, repeats=2, temperature=0, max_new_tokens=3, on_finish=played.append)
    assert played[0].tokens.tolist() == played[1].tokens.tolist()


def test_the_turn_limit_ends_episodes(make_lm):
    found = evaluate(make_lm(0), ENV, 4, seed=10, max_turns=2, max_new_tokens=2)
    assert found.endings == {"max_turns": 4}
    assert found.mean_turns == 2 and found.success_rate.mean == 0


def test_a_full_context_ends_episodes(make_lm):
    found = evaluate(make_lm(0), EnvSpec(ENV, {"length": 9}), 3, seed=10, max_new_tokens=4, max_tokens=80)
    assert found.endings == {"max_tokens": 3}


def test_the_smaller_turn_limit_counts():
    assert turn_limit(EnvSpec(ENV, {"max_turns": 7}), None) == 7
    assert turn_limit(EnvSpec(ENV, {"max_turns": 7}), 3) == 3
    assert turn_limit(EnvSpec(ENV, {"max_turns": 7}), 30) == 7


def test_an_environment_without_any_turn_limit_is_refused(tmp_path, make_lm):
    source = FILE.read_text().replace("self.max_turns = max_turns", "")
    (tmp_path / "endless.py").write_text(source)
    endless = f"{tmp_path / 'endless.py'}:Scripted"
    with pytest.raises(UserError, match=r"has no turn limit .*--max-turns"):
        evaluate(make_lm(0), endless, 1)
    assert math.isfinite(evaluate(make_lm(0), endless, 1, max_turns=2, max_new_tokens=2).mean_turns)


def test_a_model_is_named_like_on_the_command_line(model_directory, make_lm):
    named = evaluate(str(model_directory(0)), GUESS, 2, max_new_tokens=2, device="cpu")
    assert named == evaluate(make_lm(0), GUESS, 2, max_new_tokens=2)
