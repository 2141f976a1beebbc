"""A resumed run goes on with the settings it was saved with, but for those that are meant."""

from __future__ import annotations

import pytest

from trpd_agents.config.changes import differences, require_meant
from trpd_agents.errors import UserError

BEFORE = {
    "seed": 0,
    "credit": {"preset": "opd", "rule": {"kind": "none"}, "gate": {"kind": "none"}},
    "learner": {"lr": 0.1, "betas": [0.9, 0.99]},
    "training": {"steps": 10, "checkpoint_every": 5, "group_size": 4},
}


def edited(**changes):
    """`BEFORE` with some keys of its sections replaced; `section__key=value`."""
    now = {key: dict(value) if isinstance(value, dict) else value for key, value in BEFORE.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            now[section][name] = value
        else:
            now[section] = value
    return now


def test_equal_settings_do_not_differ():
    assert differences(BEFORE, edited()) == {} and require_meant(BEFORE, edited(), ()) == []


def test_every_key_that_differs_is_named_with_both_values():
    now = edited(seed=1, learner__lr=0.2, learner__betas=[0.9, 0.95], credit__rule={"kind": "stop", "enter": 0.5})
    with pytest.raises(UserError) as caught:
        require_meant(BEFORE, now, ())
    message = str(caught.value)
    assert "learner.lr: saved with 0.1, now 0.2" in message and "seed: saved with 0, now 1" in message
    assert "learner.betas: saved with [0.9, 0.99], now [0.9, 0.95]" in message
    assert "credit.rule: saved with {'kind': 'none'}, now {'kind': 'stop', 'enter': 0.5}" in message
    assert "--resume RUN credit.rule=VALUE learner.betas=VALUE learner.lr=VALUE seed=VALUE" in message


def test_how_long_a_run_is_may_always_differ():
    assert require_meant(BEFORE, edited(training__steps=20), ()) == ["training.steps"]
    with pytest.raises(UserError, match=r"training\.group_size: saved with 4, now 8"):
        require_meant(BEFORE, edited(training__steps=20, training__group_size=8), ())


@pytest.mark.parametrize(
    ("meant", "changes"),
    [
        ("learner.lr", {"learner__lr": 0.2}),
        ("learner", {"learner__lr": 0.2, "learner__betas": [0, 0]}),
        ("credit.preset", {"credit__preset": "tropd", "credit__gate": {"kind": "bernoulli"}}),
        ("credit.rule.kind", {"credit__rule": {"kind": "stop", "enter": 0.5}}),
        ("credit.rule.enter", {"credit__rule": {"kind": "stop", "enter": 0.5}}),
    ],
)
def test_what_is_named_may_differ_and_nothing_else(meant, changes):
    assert require_meant(BEFORE, edited(**changes), [meant])
    with pytest.raises(UserError, match="seed: saved with 0, now 3"):
        require_meant(BEFORE, edited(seed=3, **changes), [meant])


def test_a_key_that_came_with_a_version_is_no_difference():
    now = edited(learner__new=1)
    assert require_meant(BEFORE, now, ()) == [] and require_meant(now, BEFORE, ()) == []
