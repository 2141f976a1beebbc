"""Stored episodes get the weights that training gave them, a few at a time, and every turn its reason."""

from __future__ import annotations

import numpy as np
import pytest

from trpd_agents.credit import Reason, assign_credit
from trpd_agents.report import episodes as module
from trpd_agents.report import open_run_files, stream_episodes
from trpd_agents.trajectory import pad_scored


def test_known_turns_have_their_reason(runs, make_run) -> None:
    (seen, _) = stream_episodes(open_run_files(make_run()))
    assert [turn.state for turn in seen.turns] == ["kept", "kept", "masked", "masked", "masked", "kept", "kept"]
    assert {k: turn.why for k, turn in enumerate(seen.turns) if turn.why} == runs.WHY
    assert seen.turns[1].divergence == pytest.approx(0.71) and not seen.turns[runs.REFUSED].played.ok
    assert seen.kept_share == pytest.approx(8 / 14)


def test_the_weights_are_those_of_training_whatever_is_read_at_once(runs, make_run, monkeypatch) -> None:
    config = runs.CONFIG.replace("preset: hysteresis", "preset: hysteresis, gate: bernoulli")
    rng = np.random.default_rng(0)
    stored = [runs.make_episode(k, ratios=rng.normal(-0.3, 0.5, (k % 4 + 1, 2)).tolist()) for k in range(9)]
    run = open_run_files(make_run(stored={10: stored}, config=config))
    assert run.config is not None
    whole = assign_credit(pad_scored(stored), run.config.credit.method, 9, run.config.seed)
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    for b, seen in enumerate(stream_episodes(run)):
        at = stored[b].action_positions()
        assert np.array_equal(seen.tokens.policy_weight, whole.policy_weight[b, at].numpy())
        assert np.array_equal(seen.tokens.reason, whole.reason[b, at].numpy())
    assert (whole.reason == Reason.GATE_REJECTED).any()


def test_guided_turns_and_failed_environments(runs, make_run) -> None:
    config = runs.CONFIG.replace("preset: hysteresis", "preset: hysteresis, guidance: prefix")
    stored = {1: [runs.make_episode(0, guided=(0, 1)), runs.make_episode(1, error="step_raised")]}
    run = open_run_files(make_run(stored=stored, config=config))
    guided, failed = stream_episodes(run)
    assert [turn.state for turn in guided.turns][:3] == ["guided", "guided", "kept"]
    assert guided.turns[0].why == "played by the teacher, and imitated"
    assert failed.kept_share is None and {turn.state for turn in failed.turns} == {"unknown"}
    assert "the environment failed" in failed.turns[0].why
    assert not run.missing


def test_thresholds_by_quantile_look_back_over_the_stored_updates(runs, make_run) -> None:
    rule = "{enter: 0.5, leave: 0.2, patience: 2, thresholds: quantile, window: 100}"
    config = runs.CONFIG.replace("{enter: 0.5, leave: 0.2, patience: 2}", rule)
    run = open_run_files(make_run(stored={step: [runs.make_episode(step)] for step in (1, 10, 20)}, config=config))
    first, second, _ = stream_episodes(run)
    assert all(turn.state == "kept" for turn in first.turns)  # nothing was seen before
    divergences = [turn.divergence for turn in first.turns]
    assert second.rule.enter == pytest.approx(float(np.quantile(divergences, 0.5)), abs=1e-6)
    assert any("quantile" in what for what in run.missing)
    (alone,) = stream_episodes(open_run_files(run.path), [10])
    assert [turn.why for turn in alone.turns] == [turn.why for turn in second.turns]


def test_a_method_that_lacks_what_it_needs_is_said(runs, make_run) -> None:
    config = runs.CONFIG.replace("preset: hysteresis", "preset: hysteresis, gate: closed, outlier: forward_kl")
    run = open_run_files(make_run(stored={1: [runs.make_episode(0, top=False)]}, config=config))
    (seen,) = stream_episodes(run)
    assert {turn.state for turn in seen.turns} == {"unknown"}
    assert any("step 1: its weights and reasons cannot be computed" in what for what in run.missing)
