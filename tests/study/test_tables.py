"""What the tables and the curves say, from results that are made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trpd_agents.evaluation.statistics import difference_over_runs
from trpd_agents.study import write_report
from trpd_agents.study.plan import make_plan
from trpd_agents.study.plots import BINS, band
from trpd_agents.study.results import member_rows
from trpd_agents.study.store import StudyDirectory
from trpd_agents.study.work import write_json

EPISODES = 40


@pytest.fixture
def made_up(make_study, tmp_path):
    """`made_up(study, rates)`: a directory in which the method's member of each seed has that share of successes."""

    def build(study, rates: dict[str, list[float | None]], **told):
        plan, directory = make_plan(study), StudyDirectory(tmp_path)
        for member in plan.members:
            rate = rates[member.method][study.seeds.index(member.seed)]
            if rate is None:
                continue
            folder = directory.folder(member)
            flags = {str(episode): [episode < rate * EPISODES] for episode in range(EPISODES)}
            after = {"success_rate": rate, "interval": [0, 1], "episodes": EPISODES, "environment_steps": 20}
            write_json(folder / "evaluations.json", {"after": {**after, "step": 2, "outcomes": flags}})
            line = {"step": 1, "environment_steps": 20, "action_tokens": 10, "kept_share": 0.5}
            line |= {"divergence_by_turn": [], "kept_share_by_turn": []}
            (folder / "metrics.jsonl").write_text(f"{line}\n".replace("'", '"'))
            member_told = {
                **{"asked": member.asked, "learning_rate": 0.01, "tokens": {"rollout": 1000}, "wall_seconds": 60.0},
                **{"version": "1", "config": f"c{member.seed}", "settings": "s"},
            }
            write_json(folder / "member.json", member_told | (told if member.seed == 1 else {}))
            for who, success in (("student", 0.25), ("teacher", 0.75)):
                found = {"success_rate": success, "interval": [0, 1]}
                write_json(directory.model_file(member.models[who]), found)
        return plan, directory

    return build


def row_of(text: str, method: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_says_what_it_is_made_of(make_study, made_up, tmp_path):
    study = make_study(seeds=[0, 1, 2])
    plan, directory = made_up(study, {"opd": [0.5, 0.6, 0.55], "occupancy": [0.7, 0.9, None]})
    text = write_report(study, tmp_path)
    assert "5 of 6 members finished" in text
    assert "Success before training 0.250 (mean over 3 seeds), teacher 0.750; 40 evaluation episodes." in text
    opd, occupancy = row_of(text, "opd"), row_of(text, "occupancy")
    assert opd[1] == "3 of 3 seeds" and opd[2].startswith("0.550 [") and opd[3:5] == ["-", "-"]
    assert occupancy[1] == "**2 of 3 seeds**" and occupancy[2].startswith("0.800 [")
    assert occupancy[3].startswith("+0.250 [") and occupancy[3].endswith("(2 pairs)")  # of seeds 0 and 1 only
    assert occupancy[5:] == ["0.01", "0.50", "20", "1,000", "60"]
    assert "- `guess/other/occupancy/2`: not run yet" in text
    assert sum(row["status"] == "not run" for row in member_rows(plan, directory)) == 1


def test_a_cell_without_any_seed_has_no_number(make_study, made_up, tmp_path):
    study = make_study()
    made_up(study, {"opd": [None, None], "occupancy": [0.5, 0.5]})
    text = write_report(study, tmp_path)
    assert row_of(text, "opd")[1:] == ["**0 of 2 seeds**", *["-"] * 8]
    assert row_of(text, "occupancy")[3:5] == ["-", "-"]  # nothing to compare with


def test_one_seed_has_no_interval(make_study, made_up, tmp_path):
    study = make_study(seeds=[0])
    made_up(study, {"opd": [0.5], "occupancy": [0.75]})
    assert row_of(write_report(study, tmp_path), "occupancy")[2:4] == [
        *("0.750 [one seed, no interval]", "+0.250 [one seed, no interval]"),
    ]


def test_more_comparisons_make_the_common_intervals_wider(make_study, made_up, tmp_path):
    methods = ["opd", "occupancy", "tropd", "sod"]
    study = make_study(methods=methods, seeds=[0, 1, 2])
    made_up(study, {"opd": [0.5, 0.6, 0.55], "occupancy": [0.7, 0.9, 0.8], "tropd": [0.5] * 3, "sod": [0.4] * 3})
    text = write_report(study, tmp_path)
    outcomes = {
        method: {
            seed: {e: [e < rate * EPISODES] for e in range(EPISODES)}
            for seed, rate in enumerate({"opd": [0.5, 0.6, 0.55], "occupancy": [0.7, 0.9, 0.8]}[method])
        }
        for method in ("opd", "occupancy")
    }
    for cell, level in ((3, 0.95), (4, 1 - 0.05 / 3)):
        found = difference_over_runs(outcomes["opd"], outcomes["occupancy"], level)
        assert row_of(text, "occupancy")[cell].endswith(f"[{found.low:+.3f}, {found.high:+.3f}]")


def test_seeds_that_were_run_differently_are_told(make_study, made_up, tmp_path):
    study = make_study()
    made_up(study, {"opd": [0.5, 0.5], "occupancy": [0.5, 0.5]}, version="2")
    assert "`opd`: its seeds were run with different settings or versions" in write_report(study, tmp_path)


# ---- curves ----


def points(values: dict[int, list[tuple[float, float]]], by: str = "environment_steps") -> list[dict]:
    return [{"seed": seed, by: x, "value": y} for seed, found in values.items() for x, y in found]


def test_a_band_is_students_interval_of_the_seeds():
    x, mean, half, seeds = band(
        points({0: [(0, 0.1), (10, 0.2)], 1: [(0, 0.3), (12, 0.6)], 2: [(0, 0.5), (11, 0.7)]}), "environment_steps"
    )
    assert seeds == 3 and x.tolist() == [0, 11] and mean == pytest.approx([0.3, 0.5])
    wanted = stats.t.interval(0.95, 2, loc=0.5, scale=np.std([0.2, 0.6, 0.7], ddof=1) / math.sqrt(3))
    assert (mean[1] - half[1], mean[1] + half[1]) == pytest.approx(wanted)


def test_no_point_of_a_curve_stands_for_fewer_seeds():
    long = {seed: [(float(k), float(seed)) for k in range(100 + 50 * seed)] for seed in (0, 1)}
    x, mean, _, _ = band(points(long), "environment_steps")
    assert len(x) <= BINS and x.max() < 101
    assert mean == pytest.approx(0.5)
    x, mean, _, _ = band(points({0: [(0, 1.0), (1, 1.0)], 1: [(0, 2.0), (0, 4.0)]}, "turn"), "turn")
    assert (x.tolist(), mean.tolist()) == ([0], [2.0])


def test_a_single_seed_has_no_band():
    _, mean, half, seeds = band(points({4: [(0, 0.5), (3, 0.75)]}), "environment_steps")
    assert (mean.tolist(), half.tolist(), seeds) == ([0.5, 0.75], [0, 0], 1)
