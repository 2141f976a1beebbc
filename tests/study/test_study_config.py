"""A study file that cannot be run is refused before anything runs, with every mistake named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.errors import UserError
from trpd_agents.study import load_study, parse_study
from trpd_agents.study.plan import make_plan

FILES = sorted((Path(__file__).parents[2] / "configs" / "study").glob("*.yaml"))

MISTAKES = [
    ({"basline": "opd"}, ["basline: unknown key; did you mean 'baseline'?"]),
    ({"baseline": "opdd"}, ["baseline: unknown name 'opdd'; did you mean 'opd'?"]),
    ({"methods": ["opd", "ocupancy"]}, ["methods.ocupancy: no preset has this name", "did you mean 'occupancy'?"]),
    ({"methods": ["opd", "opd"]}, ["methods: given twice: opd"]),
    ({"methods": {}}, ["methods"]),
    ({"seeds": []}, ["seeds"]),
    ({"seeds": [0, 1, 0]}, ["seeds: given twice: 0"]),
    ({"seeds": ["a"]}, ["seeds.0: integer wanted, found 'a'"]),
    ({"base": {"learner": None, "learnr": {}}}, ["base.learnr: unknown key; did you mean 'learner'?"]),
    ({"environments": {"a/b": {"env": {"id": "GuessNumber-v0"}}}}, ["environments: 'a/b' names a folder"]),
    ({"student": {"imitation": {"seed": 3}}}, ["student.imitation.seed: remove it: it follows each member's seed"]),
    ({"base": {"evaluation": {"before": True}}}, ["base.evaluation.before: leave it out"]),
    ({"blocks": [{"methods": ["sft"]}]}, ["blocks.0.methods: unknown name 'sft'", "known here: occupancy, opd"]),
    ({"blocks": [{"seeds": []}]}, ["blocks.0.seeds: empty"]),
    (
        {"learning_rates": {"grid": [1e-3, 1e-2], "seeds": [1, 5]}},
        ["learning_rates.seeds: [1] are seeds of the study too"],
    ),
    ({"learning_rates": {"grid": [1e-3], "seeds": [5]}}, ["learning_rates.grid"]),
    (
        {"learning_rates": {"grid": [1e-3, 1e-2], "seeds": [5], "environments": ["gess"]}},
        ["learning_rates.environments: unknown name 'gess'; did you mean 'guess'?"],
    ),
    (
        {"methods": {"opd": None, "random": {"credit": {"preset": "opd"}, "match_kept_share": "sodd"}}},
        ["methods.random.match_kept_share: unknown name 'sodd'"],
    ),
    (
        {"methods": {"opd": {"match_kept_share": "opd"}}},
        ["methods.opd.match_kept_share: 'opd' itself waits for another's share"],
    ),
    ({"teachers": {"other": {"environments": {"gues": {}}}}}, ["teachers.other.environments: unknown name 'gues'"]),
]


@pytest.mark.parametrize(("changes", "wanted"), MISTAKES)
def test_what_is_wrong_is_named(study_data, changes, wanted):
    with pytest.raises(UserError) as refused:
        parse_study(study_data(**changes), "my.yaml")
    assert str(refused.value).startswith("my.yaml cannot be run:")
    assert all(part in str(refused.value) for part in wanted), str(refused.value)


def test_all_mistakes_are_told_at_once(study_data):
    with pytest.raises(UserError) as refused:
        parse_study(study_data(baseline="x", seeds=[4, 4], blocks=[{"teachers": ["y"]}]))
    assert all(part in str(refused.value) for part in ("baseline: ", "seeds: ", "blocks.0.teachers: "))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_studies_in_configs_can_be_run(file):
    assert make_plan(load_study(file)).members


def test_a_file_that_is_no_study(tmp_path):
    with pytest.raises(UserError, match="no study file at"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(UserError, match="must hold a mapping"):
        load_study(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_study(tmp_path / "bad.yaml")


def test_the_example_in_the_documentation_is_a_study():
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    members = [member for member in make_plan(parse_study(read_yaml(example))).members if member.rate is None]
    assert len(members) == 2 * 3 * 5 + 3 * 3
