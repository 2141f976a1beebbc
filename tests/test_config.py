"""A recipe is either refused with every mistake named, or resolved to something that survives being written down."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.config import OracleTeacherConfig, dump_config, load_config, parse_config
from trpd_agents.config.yaml_file import read_yaml, write_yaml
from trpd_agents.credit.config import GATES, GUIDANCE, OUTLIERS, RULES, BernoulliGate, ThresholdGate
from trpd_agents.credit.presets import PRESETS
from trpd_agents.errors import UserError

RECIPE = """
env: {id: trpd/KeyChain-v0, kwargs: {rooms: 4}, max_turns: 12}
student: {model: builtin:tiny, imitation: {demonstrations: 8, updates: 10, batch: 4, lr: 1e-3}}
teacher: {model: builtin:tiny}
credit: {preset: tropd}
learner: {lr: 1e-3}
training: {steps: 10, episodes_per_step: 8}
"""

IMITATION = "student.imitation={{demonstrations: 8, updates: 1, batch: 4, lr: 1e-3, mistakes: {}}}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_defaults_and_numbers_in_scientific_notation(recipe: Path) -> None:
    config = load_config(recipe)
    assert config.student.imitation is not None and config.student.imitation.lr == 0.001
    assert config.teacher.kind == "local" and config.rollout.temperature == 1.0
    assert config.evaluation.episodes == 256 and config.evaluation.seed == 1_000_000


def test_overrides_are_yaml_and_the_last_wins(recipe: Path) -> None:
    config = load_config(
        recipe, ["env.kwargs.rooms=5", "env.kwargs.names=[a, b]", "training.steps=3", "training.steps=4", "seed=7"]
    )
    assert config.env.kwargs == {"rooms": 5, "names": ["a", "b"]}
    assert config.training.steps == 4 and config.seed == 7
    assert load_config(recipe, ["rollout.max_new_tokens=8"]).rollout.max_new_tokens == 8  # a section not in the file


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_dumped_configuration_loads_back_equal_and_names_everything(recipe: Path, preset: str) -> None:
    config = load_config(recipe, [f"credit.preset={preset}", "rollout.episode_seconds=1e3"])
    text = dump_config(config)
    written = recipe.with_name("resolved.yaml")
    written.write_text(text)
    assert load_config(written) == config
    assert yaml.safe_load(text)["credit"].keys() == {"preset"} | {
        f.name for f in dataclasses.fields(config.credit.method)
    }


def test_a_dumped_configuration_does_not_follow_its_preset(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(recipe)
    recipe.write_text(dump_config(config))
    monkeypatch.setitem(PRESETS, "tropd", PRESETS["opd"])
    assert load_config(recipe) == config


# ---- credit: presets and what is changed in them ----


def test_changes_are_merged_into_the_preset(recipe: Path) -> None:
    method = load_config(recipe, ["credit.outlier.top_k=3"]).credit.method
    assert method.outlier == dataclasses.replace(PRESETS["tropd"].config.outlier, top_k=3)
    assert dataclasses.replace(method, outlier=PRESETS["tropd"].config.outlier) == PRESETS["tropd"].config


def test_another_kind_starts_from_its_own_defaults(recipe: Path) -> None:
    method = load_config(recipe, ["credit.gate.slack=0.5", "credit.gate.kind=threshold"]).credit.method
    assert method.gate == ThresholdGate(slack=0.5)
    assert load_config(recipe, ["credit.gate=threshold"]).credit.method.gate == ThresholdGate()
    assert load_config(recipe, ["credit.gate.slack=.inf"]).credit.method.gate == BernoulliGate(slack=math.inf)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (part, kind)
        for part, kinds in {"gate": GATES, "outlier": OUTLIERS, "rule": RULES, "guidance": GUIDANCE}.items()
        for kind in kinds
    ],
)
def test_every_kind_can_be_named_in_a_file_and_on_the_command_line(recipe: Path, part: str, kind: str) -> None:
    from_override = load_config(recipe, [f"credit.{part}={kind}"])
    recipe.write_text(recipe.read_text().replace("{preset: tropd}", f"{{preset: tropd, {part}: {{kind: {kind}}}}}"))
    assert load_config(recipe) == from_override
    assert getattr(from_override.credit.method, part).kind == kind  # `off` must not have become False


def test_top_k_follows_from_the_method(recipe: Path) -> None:
    assert load_config(recipe, ["credit.outlier.top_k=5"]).top_k == 5
    assert load_config(recipe, ["credit.preset=opd"]).top_k == 0
    assert load_config(recipe, ["credit.preset=opd", "credit.outlier={kind: entropy, top_k: 7}"]).top_k == 7


def test_progress_is_the_share_of_whichever_budget_there_is(recipe: Path) -> None:
    by_steps = load_config(recipe).training
    assert [by_steps.progress(s, 10_000) for s in (0, 5, 10, 11)] == [0, 0.5, 1, 1]
    by_turns = load_config(recipe, ["training={environment_steps: 400, episodes_per_step: 8}"]).training
    assert [by_turns.progress(99, n) for n in (0, 100, 399, 400, 433)] == [0, 0.25, 399 / 400, 1, 1]


def test_a_warm_up_is_compared_with_the_most_updates_that_turns_allow(recipe: Path) -> None:
    """An episode has at least one turn: of 8 episodes an update, 81 turns are 11 updates at most."""
    training = "training={environment_steps: 81, episodes_per_step: 8}"
    load_config(recipe, [training, "learner.warmup_steps=11"])
    assert "at most the run's 11 optimiser steps wanted" in refused(recipe, training, "learner.warmup_steps=12")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("credit.preset=trpod", "credit.preset: no method is called 'trpod'; did you mean 'tropd'?"),
        ("credit.gate.kind=bernouli", "did you mean 'bernoulli'?"),
        ("credit.gate.slak=1", "credit.gate.slak: unknown key; did you mean 'slack'?"),
        ("credit.outliers.top_k=1", "credit.outliers: unknown key; did you mean 'outlier'?"),
        ("credit.gate.slack=tight", "credit.gate.slack: a valid number wanted, found 'tight'"),
        ("credit.outlier.top_k=0", "top_k: found 0"),
        ("credit.estimator=exact", "credit.estimator.kind: no estimator is called 'exact'"),
        ("credit.gate.kind=[]", "no gate is called []"),
        ("credit.gate=3", "credit.gate: a mapping of settings wanted, found 3"),
        ("credit=3", "credit: a mapping of keys to values wanted, found 3"),
        ("credit={gate: soft}", "credit.preset: missing; known here: "),
    ],
)
def test_mistakes_in_the_method(recipe: Path, override: str, expected: str) -> None:
    assert expected in refused(recipe, override)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.top_p=0.9", "rollout.top_p: truncated sampling is refused"),
        ("rollout.temperature=0.7", "rollout.temperature: training samples at temperature 1"),
        ("env.max_turn=3", "env.max_turn: unknown key; did you mean 'max_turns'?"),
        ("env.workers=many", "env.workers: 'auto' or a whole number of at least 0 wanted, found 'many'"),
        ("env.workers=true", "env.workers: 'auto' or a whole number of at least 0 wanted, found True"),
        ("lr=0.1", "lr: unknown key; did you mean 'learner.lr'?"),
        (
            "teacher.kind=locl",
            "teacher.kind: 'local' or 'oracle' or 'server' or 'hinted' or 'routed' wanted, found 'locl'",
        ),
        ("training.steps=0", "training.steps: greater than or equal to 1 wanted, found 0"),
        ("training.steps=2.5", "training.steps: integer wanted, found 2.5"),
        ("training.steps=true", "training.steps: integer wanted, found True"),
        ("training.steps='10'", "training.steps: integer wanted, found '10'"),
        ("learner.lr=-1", "learner.lr: greater than 0 wanted, found -1"),
        ("learner.lr=.inf", "learner.lr: "),
        ("learner.betas=[0.9, 1.0]", "learner.betas.1: less than 1 wanted, found 1.0"),
        ("learner.dtype=float16", "learner.dtype: 'auto', 'float32' or 'bfloat16' wanted, found 'float16'"),
        ("student.imitation.batch=0", "student.imitation.batch: "),
        ("training.group_size=3", "group_size (3) must divide episodes_per_step (8)"),
        ("training.ranks=9", "episodes_per_step (8) is smaller than ranks (9)"),
        ("training.steps=null", "training: exactly one of steps and environment_steps wanted, which says how long the"),
        ("training.environment_steps=500", "how long the run is; found 10 and 500: set one of them to null"),
        ("training={environment_steps: 0, episodes_per_step: 8}", "environment_steps: greater than or equal to 1 want"),
        ("rollout.max_new_tokens=4096", "max_new_tokens (4096) must be smaller than max_tokens (2048)"),
        ("learner.warmup_steps=11", "learner.warmup_steps: at most the run's 10 optimiser steps wanted, found 11"),
        ("learner.token_budget=100", "learner.token_budget: at least rollout.max_tokens (2048) wanted, found 100"),
        ("env.kwargs=4", "env.kwargs: a mapping of keys to values wanted, found 4"),
        ("seed.deep=1", "seed: integer wanted"),
        ("env.max_turns.x=1", "env.max_turns is 12, not a section"),
        ("training.steps", "'training.steps' is not an override"),
        ("training..steps=1", "is not an override"),
        ("env.kwargs.x=[1", "is not valid YAML"),
    ],
)
def test_mistakes_are_named_with_their_path_and_what_to_do(recipe: Path, override: str, expected: str) -> None:
    assert expected in refused(recipe, override)


def test_all_mistakes_are_named_at_once(recipe: Path) -> None:
    message = refused(recipe, "learner.lr=-1", "training.steps=x", "credit.preset=nothing", "typo=1")
    assert message.startswith(f"{recipe} cannot be run:\n")
    assert len(message.splitlines()) == 5


def test_missing_sections_are_named() -> None:
    with pytest.raises(UserError) as caught:
        parse_config({"env": {"id": "x"}})
    for section in ("student", "teacher", "credit", "learner", "training"):
        assert f"\n  {section}: missing" in str(caught.value)


def test_guidance_needs_a_teacher_that_can_give_it(recipe: Path) -> None:
    oracle = "teacher={kind: oracle}"
    wanted = (
        "credit.guidance.kind: a teacher of kind 'oracle' cannot guide by 'rescue', only by none, prefix, bernoulli"
    )
    assert wanted in refused(recipe, oracle, "credit.guidance=rescue")
    for kind in ("none", "prefix", "bernoulli"):
        assert load_config(recipe, [oracle, f"credit.guidance={kind}"]).teacher == OracleTeacherConfig()
    load_config(recipe, ["credit.guidance=rescue"])


def test_a_teacher_without_a_kind_is_a_local_model(recipe: Path) -> None:
    assert load_config(recipe).teacher == load_config(recipe, ["teacher.kind=local"]).teacher
    assert load_config(recipe, ["teacher={kind: oracle, uniform: 0.2}"]).teacher == OracleTeacherConfig(uniform=0.2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "teacher={kind: oracle, model: builtin:tiny}",
            "teacher.model: unknown key; known here: cache, cache_gigabytes, kind, uniform",
        ),
        ("teacher.uniform=0.1", "teacher.uniform: unknown key; known here: cache, cache_gigabytes, imitation, kind"),
        ("teacher={kind: oracle, uniform: 0}", "teacher.uniform: greater than 0 wanted, found 0"),
        ("teacher={kind: oracle, uniform: 1}", "teacher.uniform: less than 1 wanted, found 1"),
        ("teacher={kind: 3}", "teacher.kind: 'local' or 'oracle' or 'server' or 'hinted' or 'routed' wanted, found 3"),
        ("teacher=oracle", "teacher: a mapping of keys to values wanted, found 'oracle'"),
        ("teacher={}", "teacher.model: missing"),
        (IMITATION.format(1), "student.imitation.mistakes: less than 1 wanted, found 1"),
        (IMITATION.format(-0.1), "student.imitation.mistakes: greater than or equal to 0 wanted, found -0.1"),
    ],
)
def test_what_a_teacher_is_not_told(recipe: Path, override: str, expected: str) -> None:
    message = refused(recipe, override)
    assert f"\n  {expected}" in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("a: [1", "not valid YAML"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_files_that_are_not_a_configuration(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert expected in refused(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no configuration file" in refused(tmp_path / "none.yaml")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(tmp_path / "binary")


# ---- YAML ----


def test_plain_words_mean_what_yaml_1_2_says() -> None:
    text = "[off, no, on, yes, true, 1e-3, 1_000, 1:30, 0x10, .inf, 007, null, ~, -2.5e+3, 2026-01-01]"
    assert read_yaml(text) == [
        *("off", "no", "on", "yes", True, 0.001, 1000, "1:30", "0x10", math.inf, "007", None, None, -2500.0),
        "2026-01-01",
    ]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_what_is_written_reads_back_equal(data: dict[str, Any]) -> None:
    assert read_yaml(write_yaml(data)) == data


@settings(deadline=None)
@given(plain)
def test_any_value_of_a_key_is_accepted_or_refused_as_a_user_error(value: Any) -> None:
    data = read_yaml(RECIPE)
    for section in ("env", "credit", "learner", "rollout", "seed"):
        try:
            parse_config({**data, section: value})
        except UserError as error:
            assert section in str(error)
