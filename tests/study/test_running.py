"""Studies of real, tiny runs: what is done, in which order, what is left undone after a failure, and what is not done
twice. Jobs run in this process; `test_pool.py` has the processes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trpd_agents.config import load_config
from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted
from trpd_agents.study import run_study, write_report
from trpd_agents.study.plan import make_plan
from trpd_agents.study.rates import choose_rate, trials
from trpd_agents.study.store import StudyDirectory


def run(study, out: Path, **options) -> tuple[dict[str, str], list[str]]:
    """What failed, and the lines that were said."""
    lines: list[str] = []
    return run_study(study, out, jobs=1, say=lines.append, **options), lines


def read(file: Path):
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def whole(make_study, tmp_path_factory, pool_class):
    """A finished study with a choice of learning rates and a method that matches another's kept share."""
    study = make_study(
        methods={
            "opd": None,
            "occupancy": {"credit": {"rule": {"budget": 1.0}}},
            "random": {"credit": {"preset": "random-turn-mask"}, "match_kept_share": "occupancy"},
        },
        learning_rates={"grid": [1e-2, 1e-3], "seeds": [7]},
    )
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trpd_agents.study.run.Pool", pool_class)
        failed, lines = run(study, out)
    assert failed == {}
    return study, out, lines, write_report(study, out)


def test_every_member_is_told_with_its_success_and_what_is_left(whole):
    _, _, lines, _ = whole
    members = [line for line in lines if line.startswith("[")]
    assert len(members) == 12 and members[-1].startswith("[12/12] ")
    assert all(" success 0." in line and " -> " in line and " kept " in line and " s" in line for line in members)
    assert all("min left" in line or "minute left" in line for line in members[:-1])
    assert "left" not in members[-1]


def test_starts_and_teachers_are_made_once(whole):
    _, out, lines, _ = whole
    made = [line for line in lines if line.startswith("models/")]
    # Nothing is learned before: all seeds start from the same student.
    assert len(made) == len(set(made)) == len(list(out.glob("models/guess/*.json"))) == 2


def test_a_finished_member_is_a_run_directory_without_weights(whole):
    _, out, _, _ = whole
    folder = out / "members" / "guess" / "other" / "opd" / "0"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.yaml", "evaluations.json", "member.json", "metrics.jsonl", "summary.json", "versions.json"),
    ]
    assert load_config(folder / "config.yaml").seed == 0
    assert [name for name in read(folder / "evaluations.json")][-1] == "after"


def test_the_learning_rate_is_the_best_on_the_other_seeds(whole):
    study, out, _, text = whole
    plan, directory = make_plan(study), StudyDirectory(out)
    for member in plan.members:
        if member.rate is not None:
            assert member.seed == 7
            continue
        success = {
            rate: read(out / "selection" / names[0] / "evaluations.json")["after"]["success_rate"]
            for rate, names in member.candidates.items()
        }
        best = min(rate for rate in success if success[rate] == max(success.values()))
        assert load_config(out / member.folder / "config.yaml").learner.lr == best
        assert f"**{success[best]:.3f}**" in text.partition("## Learning rates")[2]
        assert {t.rate: t.success for t in trials(member, plan, directory)} == success


def test_the_share_that_is_matched(whole):
    _, out, _, _ = whole
    for seed in (0, 1):
        file = out / f"members/guess/other/occupancy/{seed}/metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        kept = sum(line["kept_share"] * line["action_tokens"] for line in lines)
        config = load_config(out / f"members/guess/other/random/{seed}/config.yaml")
        assert config.credit.method.rule.share == pytest.approx(kept / sum(line["action_tokens"] for line in lines))
        assert 0 < config.credit.method.rule.share < 1


def test_results_have_a_row_for_each_member(whole):
    study, out, _, _ = whole
    rows = read(out / "results.json")
    assert rows == pq.read_table(out / "results.parquet").to_pylist()
    assert [row["role"] for row in rows].count("selection") == 6
    for row in rows:
        assert row["status"] == "done" and row["error"] is None
        assert row["environment_steps"] >= 14
        after = read(out / row["outcomes"])["after"]
        assert row["success_after"] == after["success_rate"]
        assert row["success_after"] == pytest.approx(sum(map(sum, after["outcomes"].values())) / 6)
        assert row["seconds"] > 0 and row["tokens"] > 0 and 0 <= row["kept_share"] <= 1
    starts = {row["seed"]: row["success_before"] for row in rows}
    assert len({row["success_teacher"] for row in rows}) == 1
    assert all(row["success_before"] == starts[row["seed"]] for row in rows)


def test_curves_begin_with_the_start_and_end_with_the_result(whole):
    _, out, _, _ = whole
    curves = pq.read_table(out / "curves.parquet").to_pylist()
    result = next(row for row in read(out / "results.json") if row["role"] == "study")
    own = [row for row in curves if all(row[key] == result[key] for key in ("environment", "method", "seed"))]
    success = [row for row in own if row["figure"] == "evaluated_success"]
    assert [success[0]["environment_steps"], success[0]["value"]] == [0, result["success_before"]]
    assert success[-1]["environment_steps"] == result["environment_steps"]
    assert success[-1]["value"] == result["success_after"]
    assert len(success) >= 3 and all(row["low"] <= row["value"] <= row["high"] for row in success)
    assert {row["turn"] for row in own if row["figure"] == "divergence"} <= {0, 1}
    for figure in ("kept_share", "grad_norm", "reverse_kl", "divergence"):
        assert any(row["figure"] == figure and math.isfinite(row["value"]) for row in own), figure


def test_pictures_are_drawn(whole):
    _, out, _, _ = whole
    names = {path.name for path in (out / "plots").iterdir()}
    assert {f"guess-other-{name}.png" for name in ("evaluated_success", "grad_norm", "divergence-by-turn")} <= names
    assert all(path.read_bytes()[1:4] == b"PNG" for path in (out / "plots").iterdir())


def test_a_finished_study_does_nothing_more(whole, pool_here):
    study, out, _, text = whole
    failed, lines = run(study, out)
    assert (failed, pool_here.jobs, lines) == ({}, [], ["12 of 12 members were finished before"])
    assert write_report(study, out) == text


# ---- failures and interruptions ----


def test_a_crash_is_reported_and_the_others_finish(make_study, tmp_path, pool_here):
    study = make_study()
    crash = "guess/other/occupancy/0"

    def intercept(job, payload):
        if job == crash:
            raise RunError("the gradient is not finite\nand more")

    pool_here.intercept = staticmethod(intercept)
    failed, lines = run(study, tmp_path)
    assert failed == {crash: "the gradient is not finite\nand more"}
    assert any(f"{crash}  FAILED: the gradient is not finite; its log: " in line for line in lines)
    text = write_report(study, tmp_path)
    assert "3 of 4 members finished" in text
    assert "| occupancy | **1 of 2 seeds** |" in text and "(1 pairs)" in text
    assert "| opd | 2 of 2 seeds |" in text
    assert f"- `{crash}`: the gradient is not finite" in text
    row = next(row for row in read(tmp_path / "results.json") if row["status"] == "failed")
    assert (row["method"], row["seed"], row["success_after"]) == ("occupancy", 0, None)

    pool_here.intercept = staticmethod(lambda job, payload: None)
    pool_here.jobs.clear()
    assert run(study, tmp_path)[0] == {}
    assert pool_here.jobs == [crash]
    assert "Missing" not in write_report(study, tmp_path)


def test_without_its_teacher_a_member_is_missing(make_study, tmp_path, pool_here):
    def intercept(job, payload):
        if "teacher" in job:
            raise RunError("no memory left")

    pool_here.intercept = staticmethod(intercept)
    failed, _ = run(make_study(), tmp_path)
    members = [name for name in failed if not name.startswith("models/")]
    assert len(members) == 4 and len(failed) == 5
    assert all(failed[name] == "there is no teacher: no memory left" for name in members)
    assert "No member has finished." in write_report(make_study(), tmp_path)


def test_a_rate_at_which_a_member_failed_is_not_chosen(make_study, tmp_path, pool_here):
    study = make_study(methods=["opd"], seeds=[0], learning_rates={"grid": [1e-2, 1e-3], "seeds": [7, 8]})
    broken = {"lr-0.01"}

    def intercept(job, payload):
        if any(rate in job for rate in broken) and job.endswith("/8"):
            raise RunError("too fast")

    pool_here.intercept = staticmethod(intercept)
    failed, _ = run(study, tmp_path)
    assert list(failed) == ["guess/other/opd/lr-0.01/8"]
    plan, directory = make_plan(study), StudyDirectory(tmp_path)
    assert choose_rate(plan.jobs["guess/other/opd/0"], plan, directory) == 1e-3
    assert "| 1 of 2 members | **" in write_report(study, tmp_path)

    broken.add("lr-0.001")
    failed, _ = run(study, tmp_path / "second")
    assert failed["guess/other/opd/0"] == "no learning rate could be chosen: at each of them a member failed"


def test_an_interrupted_study_goes_on_where_it_stopped(make_study, tmp_path, pool_here):
    def intercept(job, payload):
        if job == "guess/other/opd/1":
            raise KeyboardInterrupt

    pool_here.intercept = staticmethod(intercept)
    with pytest.raises(Interrupted, match="the same command goes on from here"):
        run(make_study(), tmp_path)
    done = list(pool_here.jobs)[:-1]
    assert len(done) == 4
    pool_here.jobs.clear()
    pool_here.intercept = staticmethod(lambda job, payload: None)
    failed, lines = run(make_study(), tmp_path)
    assert failed == {} and lines[0] == "2 of 4 members were finished before"
    assert not set(pool_here.jobs) & set(done)


def test_members_finished_with_other_settings_are_never_mixed_in(make_study, tmp_path, pool_here):
    run(make_study(), tmp_path)
    changed = make_study(base={"learner": {"lr": 5e-3}})
    pool_here.jobs.clear()
    with pytest.raises(UserError, match=r"4 members were finished with other settings .*\n.*members/guess/other/opd/0"):
        run(changed, tmp_path)
    assert pool_here.jobs == []
    assert "finished with other settings" in write_report(changed, tmp_path)
    failed, _ = run(make_study(seeds=[0, 1, 2]), tmp_path)  # more of the same is welcome
    assert failed == {} and [job for job in pool_here.jobs if job.startswith("guess")] == [
        *("guess/other/opd/2", "guess/other/occupancy/2"),
    ]


def test_only_some_members_and_what_they_need(make_study, tmp_path, pool_here):
    study = make_study()
    run(study, tmp_path, only="*/occupancy/1")
    assert sorted(job.rsplit("-", 1)[0] for job in pool_here.jobs) == [
        *("guess/other/occupancy/1", "models/guess/start", "models/guess/teacher-other"),
    ]
    assert "not run yet" in write_report(study, tmp_path)
    with pytest.raises(UserError, match=r"--only 'opd' fits none of the 4 members, .*like guess/other/opd/0"):
        run(study, tmp_path, only="opd")


def test_models_can_be_kept(make_study, tmp_path, pool_here):
    run(make_study(methods=["opd"], seeds=[0], keep_models=True), tmp_path)
    assert (tmp_path / "members/guess/other/opd/0/student/model.safetensors").is_file()


def test_two_studies_in_one_directory(make_study, tmp_path, pool_here):
    directory = StudyDirectory(tmp_path)
    with directory.lock(), pytest.raises(UserError, match="another `trpd study` is at work in"):
        run(make_study(), tmp_path)
    assert pool_here.jobs == []


def test_what_cannot_run_is_found_before_anything_is_written(make_study, tmp_path, pool_here):
    for changes, wanted in (
        ({"student": {"model": "builtin:tny"}}, "tny"),
        ({"environments": {"guess": {"env": {"id": "GuesNumber-v0"}}}}, "unknown environment"),
    ):
        with pytest.raises(UserError, match=wanted):
            run(make_study(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_oracle_is_a_teacher_like_any_other(make_study, tmp_path, pool_here):
    study = make_study(
        environments={"guess": {"env": {"kwargs": {"max_turns": 3}}}},
        teachers={"exact": {"kind": "oracle"}},
        methods=["opd"],
        blocks=[{"teachers": ["exact"], "seeds": [0]}],
    )
    assert run(study, tmp_path)[0] == {}
    assert "teacher 1.000" in write_report(study, tmp_path)  # three guesses are enough for three numbers


def test_a_start_that_the_cache_lost_is_made_again_before_the_members_that_need_it(
    make_study, tmp_path, pool_here, monkeypatch
):
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "cache"))
    start = {"imitation": {"demonstrations": 2, "updates": 1, "batch": 2, "lr": 1e-3}}
    study, out = make_study(student=start, seeds=[0]), tmp_path / "out"
    run(study, out)
    shutil.rmtree(tmp_path / "cache")
    run(study, out)
    assert len(pool_here.jobs) == 4  # a start, a teacher and two members: where nothing is left to run nothing is made
    shutil.rmtree(out / "members/guess/other/opd")
    run(study, out)
    assert [job.partition("-")[0] for job in pool_here.jobs[4:]] == ["models/guess/start", "guess/other/opd/0"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
