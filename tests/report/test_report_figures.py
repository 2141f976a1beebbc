"""Curves and warnings: pooled as they say, silent about a healthy run, and each warning found when it is planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from trpd_agents.evaluation.statistics import wilson_interval
from trpd_agents.report import open_run_files, stream_episodes
from trpd_agents.report.advice import advise
from trpd_agents.report.figures import Sums, curves, phases, results


def summed(run) -> Sums:
    sums = Sums()
    for seen in stream_episodes(run):
        sums.add(seen)
    return sums


def test_success_is_pooled_over_stretches_of_updates(runs, make_run) -> None:
    rows = [runs.metrics(step, success=step / 200, episodes=10) for step in range(1, 121)]
    chart = curves(open_run_files(make_run(rows=rows)), Sums())["success"]
    at = chart["x"].index(2)  # 120 updates in 60 stretches of two
    won = round(sum(10 * step / 200 for step in (1, 2)))
    assert chart["series"]["success"][at] == won / 20
    assert (chart["band"][0][at], chart["band"][1][at]) == wilson_interval(won, 20)
    assert chart["x"][0] == 0 and chart["held"]["mean"][0] == 0.25  # before training, on 40 held-out episodes
    assert chart["series"]["success"][0] is None


def test_turns_are_grouped_by_their_number(runs, make_run) -> None:
    rows = [
        runs.metrics(1, divergence_by_turn=[0.1, 0.2, 0.3, 0.6], counted_by_turn=[4.0, 4.0, 3.0, 1.0]),
        runs.metrics(2, divergence_by_turn=[0.1, None, None, None], counted_by_turn=[4.0, 0.0, 0.0, 0.0]),
    ]
    chart = curves(open_run_files(make_run(rows=rows)), Sums())["divergence_by_turn"]
    assert list(chart["series"]) == ["turn 0", "turn 1", "turns 2 to 3"]
    assert chart["series"]["turns 2 to 3"] == [pytest.approx((3 * 0.3 + 0.6) / 4), None]


def test_entropy_and_reasons_come_from_the_stored_episodes(make_run) -> None:
    run = open_run_files(make_run())
    charts = curves(run, summed(run))
    assert charts["entropy"]["series"] == {"student": [7.0]}  # every token was sampled with -7 nats
    shares = charts["reasons"]["series"]
    assert sum(line[0] for line in shares.values()) == pytest.approx(1)
    assert shares["its turn lies outside the trajectory trust region: no loss"] == [pytest.approx(6 / 14)]


def test_phases_do_not_count_parts_twice(make_run) -> None:
    assert phases(open_run_files(make_run())) == [("rollout", 2.0), ("of it generate", 1.0)]
    assert dict(phases(open_run_files(make_run("going", finished=False)))) == {"rollout": 20.0, "update": 10.0}


def test_results_have_intervals(make_run) -> None:
    rows = results(open_run_files(make_run()))
    assert [row["name"] for row in rows] == ["student before", "student after", "teacher"]
    assert rows[0]["rate"] == (0.25, *wilson_interval(10, 40))


def test_a_healthy_run_is_not_warned_of(make_run) -> None:
    run = open_run_files(make_run())
    assert advise(run, summed(run)) == []


def late(runs, **changes) -> list[dict]:
    return [runs.metrics(step, **(changes if step > 10 else {})) for step in range(1, 21)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kept_share": 0.01}, "Almost nothing is learned from: of the student's tokens 1.0% are kept"),
        ({"action_tokens": 100}, "Actions grow longer: 2.0 tokens each at first, 7.1 at the end"),
        ({"cut_off_share": 0.5}, "50% are cut off"),
        ({"environment_failures": 5}, "The environment failed in 50 of 90 episodes"),
        ({"refused_share": 0.8}, "80% of the actions are refused"),
        ({"teacher_logprob_invalid": 3}, "not finite at 30 tokens"),
        ({"teacher_unavailable": 1}, "did not score 10 episodes"),
        ({"sampler_gap": 0.2}, "differ by up to 0.200 nats"),
    ],
)
def test_faults_in_the_metrics_are_found(runs, make_run, changes, what) -> None:
    run = open_run_files(make_run(rows=late(runs, **changes)))
    (warned,) = advise(run, Sums())
    assert what in warned.what and len(warned.change) > 10


def test_a_region_that_masks_nothing_is_found_but_not_where_there_is_none(runs, make_run) -> None:
    rows = [runs.metrics(step, kept_share=1.0) for step in range(1, 21)]
    (warned,) = advise(open_run_files(make_run(rows=rows)), Sums())
    assert "The trust region does nothing" in warned.what
    opd = runs.CONFIG.replace("preset: hysteresis", "preset: opd").replace(
        ", rule: {enter: 0.5, leave: 0.2, patience: 2}", ""
    )
    assert advise(open_run_files(make_run("opd", rows=rows, config=opd)), Sums()) == []


def test_a_teacher_that_is_no_better_is_found(runs, make_run) -> None:
    found = {"before": runs.evaluation([True] * 40), "teacher": runs.evaluation([True] * 39 + [False])}
    (warned,) = advise(open_run_files(make_run(evaluations=found)), Sums())
    assert "The teacher is not shown to be better than the student was: -0.025" in warned.what


def test_training_that_did_not_help_is_found(runs, make_run) -> None:
    worse = {"before": runs.evaluation([True] * 40), "after": runs.evaluation([False] * 40)}
    (warned,) = advise(open_run_files(make_run(evaluations=worse)), Sums())
    assert "Training made the student worse: -1.000" in warned.what
    same = {"before": runs.evaluation([True] * 40), "after": runs.evaluation([True] * 40)}
    (warned,) = advise(open_run_files(make_run("same", evaluations=same)), Sums())
    assert "Training is not shown to have helped" in warned.what


def test_end_tokens_that_the_teacher_does_not_expect_are_found(runs, make_run) -> None:
    ratios = [[-0.1, -9.0]] * 4  # the second token of each turn ends it
    run = open_run_files(make_run(stored={1: [runs.make_episode(0, ratios=ratios)]}))
    (warned,) = advise(run, summed(run))
    assert "-9.00 nats at end tokens, -0.10 elsewhere" in warned.what and "templates" in warned.change


def test_a_collapse_of_entropy_is_found(runs, make_run) -> None:
    certain = runs.make_episode(1)
    scores = dataclasses.replace(certain.scores, lt=certain.scores.lt + np.float32(6.9))
    certain = dataclasses.replace(certain, logprobs=certain.logprobs + np.float32(6.9), scores=scores)
    run = open_run_files(make_run(stored={1: [runs.make_episode(0)], 20: [certain]}))
    (warned,) = advise(run, summed(run))
    assert "fell from 7.000 to 0.100 nats per token and success did not rise" in warned.what
    rising = [runs.metrics(step, success=step / 20) for step in range(1, 21)]
    run = open_run_files(make_run("rising", stored={1: [runs.make_episode(0)], 20: [certain]}, rows=rising))
    assert advise(run, summed(run)) == []
