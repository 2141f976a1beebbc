"""A tiny study on random models, and a pool that does its jobs in this process, one at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trpd_agents.errors import RunError, UserError
from trpd_agents.study import StudyConfig, parse_study
from trpd_agents.study.plan import merge
from trpd_agents.study.pool import Ended
from trpd_agents.study.work import do

MakeStudy = Callable[..., StudyConfig]


@pytest.fixture(scope="session")
def study_data(model_directory) -> Callable[..., dict[str, Any]]:
    """`study_data(**changes)`: the mapping of a study file, `changes` merged in; None removes a key."""

    def build(**changes: Any) -> dict[str, Any]:
        data: dict[str, Any] = {
            "base": {
                "rollout": {"max_new_tokens": 3, "max_tokens": 200},
                "learner": {"lr": 1e-2, "device": "cpu"},
                "training": {"environment_steps": 14, "episodes_per_step": 4, "checkpoint_every": 1},
                "evaluation": {"episodes": 6, "every_environment_steps": 7},
            },
            "student": {"model": str(model_directory(0))},
            "environments": {"guess": {"env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}}}},
            "teachers": {"other": {"model": str(model_directory(1))}},
            "methods": ["opd", "occupancy"],
            "seeds": [0, 1],
            "baseline": "opd",
        }
        methods = changes.pop("methods", data["methods"])
        data = copy.deepcopy(merge(data, changes)) | {"methods": methods}
        return {key: value for key, value in data.items() if value is not None}

    return build


@pytest.fixture(scope="session")
def make_study(study_data) -> MakeStudy:
    return lambda **changes: parse_study(study_data(**changes))


class PoolHere:
    """Does a job as soon as it is given, in this process. `jobs` are all that were given, in order.

    `intercept(job, payload)` may raise in its place; KeyboardInterrupt is Ctrl-C while the job runs.
    """

    jobs: list[str] = []
    intercept: Callable[[str, Mapping[str, Any]], None] = staticmethod(lambda job, payload: None)

    def __init__(self, size: int, held: tuple[int, ...] = ()):
        self.size, self._ended = size, list[Ended]()

    @property
    def running(self) -> list[str]:
        return [ended.job for ended in self._ended]

    @property
    def free(self) -> int:
        return self.size - len(self._ended)

    def start(self, job: str, payload: Mapping[str, Any]) -> None:
        self.jobs.append(job)
        try:
            self.intercept(job, payload)
            do(json.loads(json.dumps(payload)))
        except (RunError, UserError) as error:
            self._ended.append(Ended(job, "failed", str(error)))
        else:
            self._ended.append(Ended(job, "done", None))

    def wait(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def ask_to_stop(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def pool_class() -> type[PoolHere]:
    return PoolHere


@pytest.fixture
def pool_here(monkeypatch: pytest.MonkeyPatch) -> type[PoolHere]:
    """The pool of `run_study` for this test."""
    fresh = type("FreshPoolHere", (PoolHere,), {"jobs": []})
    monkeypatch.setattr("trpd_agents.study.run.Pool", fresh)
    return fresh
