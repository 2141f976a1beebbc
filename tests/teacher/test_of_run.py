"""Which teachers a run needs follows from its environments and the routes."""

from __future__ import annotations

from typing import Any

import pytest

from trpd_agents.config import HintedTeacherConfig, OracleTeacherConfig, RunConfig, parse_config
from trpd_agents.errors import UserError
from trpd_agents.teacher.of_run import school, taught_by, teachers_of
from trpd_agents.textenv import EnvSpec

KEYS, NUMBER, LAKE = (
    {"id": f"{name}-v0", "kwargs": {}, "weight": 2} for name in ("KeyChain", "GuessNumber", "GridLake")
)
IMITATION = {"demonstrations": 8, "updates": 1, "batch": 4, "lr": 1e-3}
TEACHERS = {
    "words": {"model": "builtin:tiny", "imitation": IMITATION},
    "maps": {"kind": "oracle"},
    "rest": {"kind": "hinted"},
}
ROUTES = {"trpd/KeyChain-*": "words", "GridLake-v0": "maps", "Guess*": "words", "*": "rest"}


def run(*environments: dict[str, Any], **teacher: Any) -> RunConfig:
    one, *more = environments
    mixture = {"id": "mixture", "kwargs": {"environments": list(environments)}}
    return parse_config(
        {
            "env": mixture if more else {"id": one["id"], "kwargs": one["kwargs"]},
            "student": {"model": "builtin:tiny"},
            "teacher": teacher or {"kind": "routed", "teachers": TEACHERS, "routes": ROUTES},
            "credit": {"preset": "opd"},
            "learner": {"lr": 1e-3},
            "training": {"steps": 1, "episodes_per_step": 2},
        }
    )


def test_only_teachers_of_the_runs_own_environments_are_needed() -> None:
    assert list(teachers_of(run(LAKE))) == ["maps"]
    assert list(teachers_of(run(KEYS, NUMBER, LAKE))) == ["words", "maps"]
    assert list(teachers_of(run({"id": "trpd/KeyChain-v0", "kwargs": {}}))) == ["words"]
    assert list(teachers_of(run(KEYS, LAKE, kind="oracle"))) == [""]


def test_a_teacher_learns_where_it_teaches() -> None:
    config = run(KEYS, LAKE, NUMBER)
    assert school(config, "words") == EnvSpec("mixture", {"environments": [KEYS, NUMBER]})
    assert school(run(KEYS, NUMBER), "words") == EnvSpec("mixture", {"environments": [KEYS, NUMBER]})
    assert school(run(KEYS), "words") == EnvSpec("KeyChain-v0")
    assert school(run(KEYS, LAKE, model="builtin:tiny"), "") == EnvSpec("mixture", {"environments": [KEYS, LAKE]})


def test_what_a_kind_of_teacher_asks_is_asked_of_its_own_environments() -> None:
    config = run(KEYS, LAKE, {"id": "Courier-v0", "kwargs": {}})
    assert taught_by(config, OracleTeacherConfig) == [EnvSpec("GridLake-v0")]
    assert taught_by(config, HintedTeacherConfig) == [EnvSpec("Courier-v0")]


def test_every_environment_needs_a_teacher() -> None:
    routes = {name: teacher for name, teacher in ROUTES.items() if name != "*"}
    teachers = {name: teacher for name, teacher in TEACHERS.items() if name != "rest"}
    config = run(KEYS, {"id": "Courier-v0", "kwargs": {}}, kind="routed", teachers=teachers, routes=routes)
    with pytest.raises(UserError, match="no pattern fits the environment 'Courier-v0'; there are: trpd/KeyChain-"):
        teachers_of(config)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"teachers": TEACHERS, "routes": {**ROUTES, "x": "wrods"}}, r"routes\.x: the name of a teacher wanted"),
        ({"teachers": TEACHERS, "routes": {"*": "words"}}, r"teachers\.maps: no route leads to this teacher"),
        ({"teachers": {"a/b": {"kind": "oracle"}}, "routes": {"*": "a/b"}}, "the name becomes that of a folder"),
        ({"teachers": {"a": {"kind": "routed"}}, "routes": {"*": "a"}}, r"teachers\.a\.kind: .* found 'routed'"),
        ({"teachers": {"a": {"modl": "x"}}, "routes": {"*": "a"}}, r"teachers\.a\.modl: unknown key; did you mean"),
    ],
)
def test_routes_that_lead_nowhere_are_refused(teacher, message) -> None:
    with pytest.raises(UserError, match=message):
        run(KEYS, kind="routed", **teacher)


def test_only_what_all_can_do_can_be_asked_for() -> None:
    routed = {"kind": "routed", "teachers": TEACHERS, "routes": ROUTES}
    config = run(KEYS, **routed)
    assert config.teacher.guidance == ("none", "prefix", "bernoulli")  # an oracle does not read along
    with pytest.raises(UserError, match="'routed' cannot guide by 'rescue', only by none, prefix, bernoulli"):
        parse_config(config.model_dump() | {"credit": {"preset": "opd", "guidance": {"kind": "rescue"}}})


def test_a_teacher_that_changes_is_not_cached() -> None:
    assert run(KEYS, kind="hinted", cache="scores").teacher.cache == "scores"
    with pytest.raises(UserError, match="cache wants a teacher that does not change"):
        run(KEYS, kind="hinted", follow="student", cache="scores")
