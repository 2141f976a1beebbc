"""A whole audit of tiny models: its parts agree with each other, with evaluation, and with what is written."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from trpd_agents.audit import METHODS, OWN, SIGNALS, audit, tables, write_audit
from trpd_agents.config import parse_config
from trpd_agents.credit import CreditConfig, ForwardKLOutliers, OccupancyRule
from trpd_agents.errors import UserError
from trpd_agents.evaluation import evaluate
from trpd_agents.imitation import prepare_model
from trpd_agents.textenv import EnvSpec

LAKE = EnvSpec("GridLake-v0", {"size": 3, "holes": 1})
EPISODES = 8


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRPD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(model_directory):
    """Both have seen the expert play, the teacher more often: good enough to be right now and then."""
    student = {"demonstrations": 20, "updates": 8, "batch": 8, "lr": 1e-2}
    return {
        "seed": 3,
        "env": {"id": LAKE.id, "kwargs": LAKE.kwargs},
        "student": {"model": str(model_directory(0)), "imitation": student},
        "teacher": {"model": str(model_directory(1)), "imitation": {**student, "updates": 20}},
        "rollout": {"max_new_tokens": 3, "max_tokens": 400},
        "credit": {"preset": "occupancy"},
        "learner": {"lr": 1e-3, "device": "cpu"},
        "training": {"steps": 1, "episodes_per_step": 2},
    }


@pytest.fixture(scope="module")
def found(data):
    return audit(parse_config(data), EPISODES, quiet=True)


def test_the_teacher_is_asked_and_held_against_the_truth(found, data):
    turns = found.turns
    assert len(turns) > EPISODES and found.episodes == EPISODES and found.failed == 0
    moves = {"up", "down", "left", "right"}
    assert all(set(optimal) < moves for optimal in turns.optimal)
    wanted = [said.strip() in optimal for said, optimal in zip(turns.teacher_action, turns.optimal, strict=True)]
    assert turns.teacher_right.tolist() == wanted
    assert 0 < turns.wrong.sum() and 0 < turns.teacher_right.sum()
    assert turns.on_track.tolist() == [bool(optimal) for optimal in turns.optimal]


def test_the_episodes_are_those_of_an_evaluation(found, data):
    lm, cached = prepare_model(parse_config(data).student, LAKE, learner=parse_config(data).learner, max_turns=9)
    assert cached
    wanted = evaluate(lm, LAKE, EPISODES, max_new_tokens=3, max_tokens=400)
    assert found.success_rate == pytest.approx(wanted.success_rate.mean)
    assert len(found.turns) == round(wanted.mean_turns * EPISODES)
    assert found.turns.seed.min() == found.first_seed == 1_000_000


def test_equal_recipes_give_equal_figures(found, data):
    again = audit(parse_config(data), EPISODES, quiet=True)
    assert str(again.predicts_bad) == str(found.predicts_bad) and str(again.methods) == str(found.methods)
    elsewhere = audit(parse_config(data), 2, first_seed=7, quiet=True)
    assert sorted(set(elsewhere.turns.seed)) == [7, 8]


def test_by_turn_adds_up(found):
    turns = found.turns
    assert sum(row["episodes"] for row in found.by_turn) == len(turns)
    assert found.by_turn[0]["episodes"] == EPISODES
    shares = [row["episodes"] * row["on_track"] for row in found.by_turn]
    assert sum(shares) == pytest.approx(turns.on_track.sum())


def test_usual_methods_and_the_recipes_own(found, data):
    assert list(found.methods) == [OWN, *METHODS]
    assert found.methods[OWN].kept == found.methods["trajectory"].kept  # occupancy and trajectory share their region
    kept = {name: judged.kept for name, judged in found.methods.items()}
    assert kept["tropd"] == 1 and kept["stride"] < 1
    asked = audit(parse_config(data), 2, methods={"all": CreditConfig(rule=OccupancyRule(budget=math.inf))}, quiet=True)
    assert list(asked.methods) == [OWN, "all"] and asked.methods["all"].kept == 1


def test_another_student_plays_in_place_of_the_recipes(found, data, model_directory):
    other = audit(parse_config(data), EPISODES, student=str(model_directory(2)), quiet=True)
    assert other.turns.student_action != found.turns.student_action
    assert other.config.student.model == str(model_directory(2)) and other.config.student.imitation is None


def test_what_is_written_is_what_was_found(found, tmp_path):
    pytest.importorskip("matplotlib")
    assert write_audit(found, tmp_path / "out") == ["audit.json", "audit.md", "turns.parquet", "plots/"]
    assert len(list((tmp_path / "out" / "plots").glob("*.png"))) == 3
    table = pq.read_table(tmp_path / "out" / "turns.parquet").to_pydict()
    assert set(table) == {
        *("episode", "seed", "on_track", "teacher_right", "student_right"),
        *("student_action", "teacher_action", "optimal", *SIGNALS),
    }
    assert table["teacher_right"] == found.turns.teacher_right.tolist()
    assert table["turn"] == found.turns.turn.tolist()
    assert table["tv"] == pytest.approx(found.signals["tv"].tolist(), nan_ok=True)
    assert [tuple(texts) for texts in table["optimal"]] == found.turns.optimal

    data = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert data["turns"] == len(found.turns) and data["episodes"] == EPISODES
    assert set(data["signals"]) == set(SIGNALS) and set(data["methods"]) == set(found.methods)
    area = data["signals"]["tv"]["bad"]["auroc"]
    assert area["mean"] == pytest.approx(found.predicts_bad["tv"].estimate.mean) and len(area["interval"]) == 2

    text = (tmp_path / "out" / "audit.md").read_text()
    for shown in tables(found):
        assert f"## {shown.title}" in text
        assert all("| " + " | ".join(row.values()) + " |" in text for row in shown.rows)


def test_without_matplotlib_there_are_no_plots(found, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert write_audit(found, tmp_path) == ["audit.json", "audit.md", "turns.parquet"]


def test_the_best_figure_leads_and_causal_ones_are_told(found):
    rows = tables(found)[1].rows
    areas = [found.predicts_bad[row["figure"]].estimate.mean for row in rows]
    known = [area for area in areas if not math.isnan(area)]
    assert known == sorted(known, reverse=True) and np.isnan(areas[len(known) :]).all()
    assert {row["figure"]: row["causal"] for row in rows} == {
        name: "yes" if signal.causal else "no" for name, signal in SIGNALS.items()
    }


def test_what_has_no_area_is_said(data):
    """Two turns of guessing at most: nothing is ever lost, and an untrained teacher is never right."""
    settings = copy.deepcopy(data)
    settings["teacher"]["imitation"] = settings["student"]["imitation"] = None
    settings["env"] = {"id": "GuessNumber-v0", "kwargs": {"high": 500, "max_turns": 9}, "max_turns": 2}
    found = audit(parse_config(settings), 3, quiet=True)
    assert found.predicts_wrong["tv"].undefined == found.predicts_bad["tv"].undefined == "no good turn"
    assert tables(found)[1].rows[0]["wrong, on track"] == "- (no good turn)"
    assert tables(found)[2].rows[0]["good masked"] == "-"


def refused(data, match, **options):
    with pytest.raises(UserError, match=match):
        audit(parse_config(data), 2, quiet=True, **options)


@pytest.fixture
def no_models(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("trpd_agents.imitation.load_model", fail)


def test_mistakes_are_refused_before_a_model_loads(data, no_models, tmp_path):
    refused({**data, "teacher": {"kind": "oracle"}}, r"teacher\.kind: found 'oracle', wanted 'local'")
    source = "from trpd_envs.guessnumber import GuessNumber\n\nclass Silent(GuessNumber):\n    expert = None\n"
    (tmp_path / "silent.py").write_text(source + "    optimal_actions = None\n")
    refused({**data, "env": {"id": f"{tmp_path / 'silent.py'}:Silent"}}, r"has no expert\(\), and without one nobody")
    refused(data, "nowhere", student=str(tmp_path / "nowhere"))
    large = CreditConfig(outlier=ForwardKLOutliers(top_k=5000))
    refused(data, r"method 'large': credit\.outlier\.top_k=5000 is more than", methods={"large": large})
