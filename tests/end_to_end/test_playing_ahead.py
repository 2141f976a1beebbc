"""Episodes of the next step are played while those of this one are learned from."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trpd_agents import train
from trpd_agents.config import parse_config
from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted

AHEAD = {"training": {"staleness": 1}}
METHODS = {
    "exact": {"credit": {"preset": "trajectory"}},
    "sampled": {"credit": {"preset": "opd"}, "learner": {"correction": "truncate"}},
}


def metrics(directory: Path) -> list[dict]:
    """One entry per update, without what a clock says."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k and k != "time"} for line in lines]


@pytest.fixture(scope="module", params=list(METHODS))
def ahead(request, configure, tmp_path_factory):
    config = configure(**{**AHEAD, **METHODS[request.param]})
    directory = tmp_path_factory.mktemp(request.param) / "run"
    train(config, directory, quiet=True)
    return config, directory


def test_batches_are_one_update_old_but_for_the_first(ahead):
    _, directory = ahead
    assert [line["staleness"] for line in metrics(directory)] == [0, 1, 1, 1]
    files = sorted((directory / "trajectories").glob("*.parquet"))
    versions = [set(pq.read_table(file)["policy_version"].to_pylist()) for file in files]
    assert versions == [{0}, {0}, {2}]  # of updates 1, 2 and 4


def test_the_seconds_of_the_steps_are_those_of_the_run(ahead):
    """However often a step passes through a phase, and in whichever thread."""
    _, directory = ahead
    whole = json.loads((directory / "summary.json").read_text())["seconds"]
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for phase in ("rollout", "score", "credit", "update"):
        told = sum(line[f"seconds_{phase}"] for line in lines)
        assert told == pytest.approx(whole[phase], abs=2e-3) and told > 0


def test_the_second_thread_changes_nothing(ahead, tmp_path, monkeypatch):
    config, directory = ahead

    def one_after_the_other(here, there):
        first = here()
        return first, there()

    monkeypatch.setattr("trpd_agents.training.beside", one_after_the_other)
    train(config, tmp_path / "run", quiet=True)
    assert metrics(tmp_path / "run") == metrics(directory)


def test_the_two_threads_do_run_at_the_same_time(configure, tmp_path, monkeypatch):
    """Each waits for the other to begin; in turn they would wait for ever."""
    from trpd_agents.learner import Learner
    from trpd_agents.rollout import Collector

    meeting, met = threading.Barrier(2, timeout=60), []
    update, collect, batches = Learner.update, Collector.collect, iter(range(100))

    def waiting_update(self, *arguments, **options):
        if not met:
            met.append(meeting.wait())
        return update(self, *arguments, **options)

    def waiting_collect(self, *arguments, **options):
        if next(batches) == 1:  # of the second batch
            meeting.wait()
        return collect(self, *arguments, **options)

    monkeypatch.setattr(Learner, "update", waiting_update)
    monkeypatch.setattr(Collector, "collect", waiting_collect)
    config = configure(
        training={"staleness": 1, "steps": 2, "doctor": False}, evaluation={"before": False, "teacher": False}
    )
    train(config, tmp_path / "run", quiet=True)
    assert met and not meeting.broken


def test_ratios_are_those_of_the_weights_that_sampled(ahead):
    config, directory = ahead
    if config.learner.correction.kind == "none":  # an expectation over the vocabulary has no ratio of a sampled token
        assert not any("correction_gap" in line for line in metrics(directory))
    else:
        gaps = [line["correction_gap"] for line in metrics(directory)]
        assert gaps[0] < 1e-5 < 1e-4 < min(gaps[1:])


def test_an_interrupted_run_goes_on_to_its_end(ahead, tmp_path, monkeypatch):
    from trpd_agents.learner import Learner

    config, directory = ahead
    update, updates = Learner.update, iter(range(100))

    def interrupted_update(self, *arguments, **options):
        if next(updates) == 1:
            raise KeyboardInterrupt
        return update(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", interrupted_update)
        with pytest.raises(Interrupted, match="go on with"):
            train(config, tmp_path / "run", quiet=True)
    train(config, resume=tmp_path / "run", quiet=True)
    lines = metrics(tmp_path / "run")
    assert [line["staleness"] for line in lines] == [0, 1, 1, 1] and lines == metrics(directory)


def test_older_weights_than_agreed_stop_the_run(configure, tmp_path, monkeypatch):
    from trpd_agents.rollout import TransformersEngine

    monkeypatch.setattr(TransformersEngine, "load_weights", lambda self, state, version: None)
    with pytest.raises(RunError, match=r"2 optimiser steps old; at most 1|did not|disagree"):
        train(configure(**AHEAD), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"credit": {"preset": "trajectory", "guidance": "prefix"}}, "credit.guidance.kind: 'none' wanted"),
        ({"credit": {"preset": "opd"}}, "learner.correction.kind: 'truncate' or 'mask' wanted"),
        ({"rollout": {"engine": {"kind": "vllm", "sleep": True}}}, "rollout.engine.sleep: false wanted"),
        ({"training": {"staleness": 2}}, "training.staleness"),
    ],
)
def test_what_does_not_go_together_is_refused(configure, changes, named):
    data = configure().model_dump(mode="json")
    data["credit"] = {"preset": "trajectory"}
    for name, change in ({"training": {"staleness": 1}} | changes).items():
        data[name] = change if name == "credit" else {**data[name], **change}
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        parse_config(data)
