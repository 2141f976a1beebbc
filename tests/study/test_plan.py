"""Which runs a study consists of, what each is configured to do, and what it waits for."""

from __future__ import annotations

import pytest

from trpd_agents.errors import UserError
from trpd_agents.study.plan import ModelJob, compose, make_plan, merge

GUESS = {"env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}}}


def names(plan, rate=None):
    return [m.name for m in plan.members if (m.rate is None) == (rate is None)]


def test_the_whole_product_seed_by_seed(make_study):
    study = make_study(environments={"second": GUESS})
    assert names(make_plan(study)) == [
        f"{environment}/other/{method}/{seed}"
        for seed in (0, 1)
        for environment in ("guess", "second")
        for method in ("opd", "occupancy")
    ]


def test_blocks_are_parts_of_the_product_and_may_overlap(make_study):
    study = make_study(blocks=[{"methods": ["opd"]}, {"seeds": [1, 7]}])
    assert sorted(names(make_plan(study))) == [
        *(f"guess/other/occupancy/{seed}" for seed in (1, 7)),
        *(f"guess/other/opd/{seed}" for seed in (0, 1, 7)),
    ]


def test_sections_are_laid_over_each_other(make_study):
    imitation = {"demonstrations": 5, "updates": 1, "batch": 2, "lr": 0.1}
    study = make_study(
        base={"learner": {"grad_clip": 2.0, "weight_decay": 0.5}},
        student={"imitation": imitation},
        environments={"guess": {"learner": {"grad_clip": 3.0}, "student": {"imitation": {"updates": 7}}}},
        teachers={"other": {"environments": {"guess": {"imitation": imitation}}}},
        methods={"opd": {"learner": {"grad_clip": 4.0}}, "soft": {"credit": {"preset": "opd", "gate": "soft"}}},
    )
    drafts = {(m.method, m.seed): m.draft for m in make_plan(study).members}
    assert drafts["opd", 0].learner.grad_clip == 4.0 and drafts["soft", 0].learner.grad_clip == 3.0
    assert drafts["opd", 0].learner.weight_decay == 0.5
    assert drafts["soft", 1].credit.method.gate.kind == "soft"
    for (_, seed), draft in drafts.items():
        assert draft.seed == seed
        assert (draft.student.imitation.seed, draft.student.imitation.updates) == (seed, 7)
        assert (draft.teacher.imitation.seed, draft.teacher.imitation.updates) == (0, 1)
        assert not draft.evaluation.before and not draft.evaluation.teacher


def test_merge_leaves_its_layers_alone():
    below = {"a": {"b": 1}, "c": 1}
    merged = merge(below, {"a": {"d": 2}, "c": None})
    merged["a"]["b"] = 9
    assert below == {"a": {"b": 1}, "c": 1}
    assert merged == {"a": {"b": 9, "d": 2}, "c": None}


def test_models_are_shared_by_all_that_begin_with_the_same(make_study):
    imitation = {"demonstrations": 5, "updates": 1, "batch": 2, "lr": 0.1}
    study = make_study(student={"imitation": imitation}, environments={"second": GUESS})
    jobs = [job for job in make_plan(study).jobs.values() if isinstance(job, ModelJob)]
    told = sorted(job.name.rsplit("-", 1)[0] for job in jobs)
    assert told == [
        *("models/guess/start-0", "models/guess/start-1", "models/guess/teacher-other"),
        *("models/second/start-0", "models/second/start-1", "models/second/teacher-other"),
    ]
    # The learning rate of the distillation has no part in them.
    faster = make_study(student={"imitation": imitation}, base={"learner": {"lr": 1.0}})
    assert {j.name for j in jobs} > {j.name for j in make_plan(faster).jobs.values() if isinstance(j, ModelJob)}


def test_every_job_comes_after_what_it_needs(make_study):
    study = make_study(
        methods={"opd": None, "random": {"credit": {"preset": "random-turn-mask"}, "match_kept_share": "opd"}},
        learning_rates={"grid": [1e-3, 1e-2], "seeds": [8, 9]},
    )
    plan = make_plan(study)
    order = list(plan.jobs)
    for job in plan.jobs.values():
        for needed in job.needs:
            assert order.index(needed) < order.index(job.name)
    matching = plan.jobs["guess/other/random/0"]
    assert matching.share_of == "guess/other/opd/0"
    # On trial at some rate, it takes over the share that the other has at that rate.
    assert plan.jobs["guess/other/random/lr-0.01/9"].share_of == "guess/other/opd/lr-0.01/9"


def test_learning_rates_are_tried_on_their_own_seeds_in_every_environment_for_itself(make_study):
    study = make_study(environments={"second": GUESS}, learning_rates={"grid": [1e-3, 1e-2], "seeds": [8, 9]})
    plan = make_plan(study)
    member = plan.jobs["second/other/opd/1"]
    assert member.candidates == {
        1e-3: ("second/other/opd/lr-0.001/8", "second/other/opd/lr-0.001/9"),
        1e-2: ("second/other/opd/lr-0.01/8", "second/other/opd/lr-0.01/9"),
    }
    trial = plan.jobs["second/other/opd/lr-0.01/9"]
    assert (trial.draft.learner.lr, trial.draft.seed) == (1e-2, 9)
    assert str(trial.folder) == "selection/second/other/opd/lr-0.01/9"
    assert str(member.folder) == "members/second/other/opd/1"
    assert len(names(plan, rate=True)) == 2 * 2 * 2 * 2  # environments, methods, rates, seeds


def test_learning_rates_can_be_tried_in_one_environment_for_all(make_study):
    rates = {"grid": [1e-3, 1e-2], "seeds": [8], "environments": ["guess"]}
    plan = make_plan(make_study(environments={"second": GUESS}, learning_rates=rates))
    assert plan.jobs["second/other/opd/1"].candidates == {
        1e-3: ("guess/other/opd/lr-0.001/8",),
        1e-2: ("guess/other/opd/lr-0.01/8",),
    }
    assert len(names(plan, rate=True)) == 4


def test_a_method_with_a_rate_of_its_own_keeps_it(make_study):
    study = make_study(
        methods={"opd": {"learner": {"lr": 0.5}}, "occupancy": None},
        learning_rates={"grid": [1e-3, 1e-2], "seeds": [8]},
    )
    plan = make_plan(study)
    assert plan.jobs["guess/other/opd/0"].candidates == {}
    assert plan.jobs["guess/other/opd/0"].draft.learner.lr == 0.5
    assert {m.method for m in plan.members if m.rate is not None} == {"occupancy"}


def test_every_member_is_checked_and_mistakes_are_told_once_for_all_it_concerns(make_study):
    study = make_study(
        environments={"second": {**GUESS, "rollout": {"max_new_tokens": 500}}},
        methods={"opd": None, "tight": {"credit": {"preset": "opd", "gate": {"kind": "soft", "slack": -1.0}}}},
        base={"training": {"ranks": 2}},
    )
    with pytest.raises(UserError) as refused:
        make_plan(study)
    lines = str(refused.value).splitlines()[1:]
    assert "  second/other/opd and 1 more: rollout: max_new_tokens (500) must be smaller than max_tokens" in "\n".join(
        lines
    )
    assert any(line.startswith("  guess/other/tight and 1 more: credit.gate: soft.slack: found -1.0") for line in lines)
    assert any(line.startswith("  guess/other/opd: training.ranks: 1 wanted, found 2") for line in lines)
    assert len(lines) == 3


def test_a_share_can_only_be_matched_where_it_is_measured(make_study):
    study = make_study(
        methods={"opd": None, "random": {"credit": {"preset": "random-turn-mask"}, "match_kept_share": "opd"}},
        blocks=[{"methods": ["random"]}],
    )
    with pytest.raises(UserError, match=r"kept share of guess/other/opd/0, which no block of the study runs"):
        make_plan(study)


def test_what_is_asked_of_a_member_is_told_apart(make_study):
    def asked(**changes):
        return {m.name: m.asked for m in make_plan(make_study(**changes)).members}

    same, more, other = asked(), asked(seeds=[0, 1, 2]), asked(base={"learner": {"lr": 0.5}})
    assert all(more[name] == hash for name, hash in same.items())
    assert all(other[name] != hash for name, hash in same.items())


def test_a_member_is_composed_without_touching_the_study(make_study):
    study = make_study()
    before = study.model_dump()
    compose(study, "guess", "other", "opd", 1)["learner"]["lr"] = 5
    assert study.model_dump() == before
