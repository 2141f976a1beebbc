"""Imitation lowers the loss on what it is shown, and a start is made once for everything it depends on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from trpd_agents.config import ImitationConfig, LearnerConfig, ModelConfig
from trpd_agents.credit import assign_credit
from trpd_agents.errors import UserError
from trpd_agents.imitation import (
    DEMONSTRATION_SEEDS,
    IMITATION,
    cache_directory,
    gather_demonstrations,
    imitate,
    prepare_model,
)
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.teacher import optimal_at_turns
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Trajectory, pad_scored

GUESS = EnvSpec("GuessNumber-v0", {"high": 3})
LEARNER = LearnerConfig(lr=1.0)  # its step size is not imitation's
TINY = ImitationConfig(demonstrations=3, updates=2, batch=2, lr=1e-3)
SCRIPTED = Path(__file__).parent / "rollout" / "scripted_env.py"


def test_the_loss_falls_on_a_handful_of_demonstrations(make_lm, tokenizer):
    config = ImitationConfig(demonstrations=6, updates=25, batch=3, lr=1e-2)
    demonstrations = gather_demonstrations(GUESS, Dialogues(tokenizer), config, max_turns=5)
    assert len(demonstrations) == 6
    seen: list[tuple[int, int]] = []
    nll: list[float] = []

    def progress(done: int, total: int, figures: dict[str, float]) -> None:
        seen.append((done, total))
        nll.append(figures["imitation_nll"])
        rates.append(figures["lr"])

    rates: list[float] = []
    imitate(make_lm(0), demonstrations, config, learner=LEARNER, progress=progress)
    assert seen == [(i, 25) for i in range(1, 26)]
    assert np.mean(nll[-3:]) < 0.3 * nll[0]
    assert max(rates) == pytest.approx(config.lr) and rates[-1] < 0.02 * config.lr


def test_the_loss_is_that_of_the_action_tokens(make_lm, tokenizer, reference_logprobs):
    lm = make_lm(0)
    config = ImitationConfig(demonstrations=3, updates=1, batch=3, lr=1e-3)
    demonstrations = gather_demonstrations(GUESS, Dialogues(tokenizer), config, max_turns=5)
    wanted = []
    for t in demonstrations:
        at = t.action_positions()
        wanted.append(-reference_logprobs(lm, t.tokens)[at, torch.from_numpy(t.tokens[at]).long()])
    figures: list[dict[str, float]] = []
    imitate(lm, demonstrations, config, learner=LEARNER, progress=lambda _, __, f: figures.append(f))
    assert figures[0]["imitation_nll"] == pytest.approx(float(torch.cat(wanted).mean()), rel=1e-4)
    assert figures[0]["loss"] == pytest.approx(figures[0]["imitation_nll"], rel=1e-4)


def test_demonstrations_are_reproducible_and_seeded(tokenizer):
    def actions(config: ImitationConfig) -> list[list[str]]:
        played = gather_demonstrations(EnvSpec("GuessNumber-v0"), Dialogues(tokenizer), config, max_turns=9)
        return [[turn.text for turn in t.turns] for t in played]

    assert actions(TINY) == actions(TINY)
    assert actions(TINY) != actions(TINY.model_copy(update={"seed": 1}))


def test_an_expert_that_never_succeeds_is_an_error(tokenizer):
    hard = EnvSpec("GuessNumber-v0", {"high": 1000})
    with pytest.raises(UserError, match=r"solved none of 3 episodes within 1 turns.*raise env\.max_turns"):
        gather_demonstrations(hard, Dialogues(tokenizer), TINY, max_turns=1)


def test_an_environment_that_falls_over_costs_its_episode_only(tokenizer):
    first = DEMONSTRATION_SEEDS
    kwargs = {"fail": "step", "failures": 9, "bad_seeds": [first + 2], "tag": "demonstrate", "length": 2, "spread": 1}
    env = EnvSpec(f"{SCRIPTED}:Scripted", kwargs)
    config = TINY.model_copy(update={"demonstrations": 4})
    played = gather_demonstrations(env, Dialogues(tokenizer), config, max_turns=9)
    assert [t.seed for t in played] == [first]  # an odd seed does not succeed
    kwargs["bad_seeds"] = [first, first + 2]
    with pytest.raises(UserError, match="solved none of 4 episodes.*environment failures: 2 x step_raised"):
        gather_demonstrations(EnvSpec(env.id, kwargs | {"tag": "all"}), Dialogues(tokenizer), config, max_turns=9)


def test_an_environment_without_an_expert_is_an_error(tokenizer, tmp_path):
    source = SCRIPTED.read_text().replace("def expert", "def advice")
    (tmp_path / "silent.py").write_text(source)
    with pytest.raises(UserError, match=r"has no expert\(\) to imitate"):
        gather_demonstrations(EnvSpec(f"{tmp_path / 'silent.py'}:Scripted"), Dialogues(tokenizer), TINY, max_turns=9)


# Demonstrations with mistakes

ROBUST = ImitationConfig(demonstrations=120, updates=1, batch=120, lr=1e-3, mistakes=0.25)
LAKE = EnvSpec("GridLake-v0", {"size": 4, "holes": 3})


@pytest.fixture(scope="module")
def with_mistakes(tokenizer) -> list[Trajectory]:
    return gather_demonstrations(LAKE, Dialogues(tokenizer), ROBUST, max_turns=16)


def test_mistakes_are_made_at_the_given_rate_in_the_students_name(tokenizer):
    reparable = EnvSpec("GuessNumber-v0", {"high": 500, "max_turns": 60})  # every episode succeeds, so all are kept
    turns = [t for e in gather_demonstrations(reparable, Dialogues(tokenizer), ROBUST, max_turns=60) for t in e.turns]
    share = np.mean([turn.author == "student" for turn in turns])
    assert share == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / len(turns))) and len(turns) > 900


def test_the_expert_shows_how_to_go_on_after_a_mistake(with_mistakes):
    """Replayed, every turn of the teacher's is optimal, and turns of the student's may be anything legal."""
    wrong = recovered = failed = 0
    for trajectory in with_mistakes:
        options = optimal_at_turns(trajectory)
        authors = [turn.author for turn in trajectory.turns]
        for one, turn in zip(options, trajectory.turns, strict=True):
            assert turn.text in (one.optimal if turn.author == "teacher" else one.legal) and turn.ok
            wrong += turn.text not in one.optimal
        after = "teacher" in authors[authors.index("student") :] if "student" in authors else False
        assert trajectory.success or after
        recovered += bool(trajectory.success) and after
        failed += not trajectory.success
        # where the task is lost the episode ends: nothing of a lost state is shown
        assert all(one.optimal for one in options)
    assert wrong > 20 and recovered > 20 and failed > 3


def test_mistakes_carry_no_loss_and_the_turns_around_them_do(with_mistakes, make_lm, reference_logprobs):
    scored = pad_scored(with_mistakes)
    scored = dataclasses.replace(scored, teacher_available=torch.ones_like(scored.teacher_available))
    credit = assign_credit(scored, IMITATION)
    assert (
        scored.action.any() and bool((credit.policy_weight == 0).all()) and bool((credit.forward_kl_weight == 0).all())
    )
    assert torch.equal(credit.imitation_weight > 0, scored.guided)
    lm = make_lm(0)
    wanted = []
    for t in with_mistakes:
        at = np.flatnonzero(t.authored("teacher"))
        wanted.append(-reference_logprobs(lm, t.tokens)[at, torch.from_numpy(t.tokens[at]).long()])
    figures: list[dict[str, float]] = []
    imitate(lm, with_mistakes, ROBUST, learner=LEARNER, progress=lambda _, __, f: figures.append(f))
    assert figures[0]["loss"] == pytest.approx(float(torch.cat(wanted).mean()), rel=1e-4)


def test_which_mistakes_are_made_depends_on_the_episode_alone(with_mistakes, tokenizer):
    def texts(episodes: list[Trajectory]) -> dict[int, list[str]]:
        return {t.seed: [turn.text for turn in t.turns] for t in episodes}

    fewer = ROBUST.model_copy(update={"demonstrations": 40})
    again = texts(gather_demonstrations(LAKE, Dialogues(tokenizer), fewer, max_turns=16))
    everything = texts(with_mistakes)
    assert len(again) > 20 and all(everything[seed] == actions for seed, actions in again.items())


def test_mistakes_need_legal_actions(tokenizer):
    message = r"lists no legal actions, and imitation.mistakes=0.25 plays some of them; give its class a method legal"
    with pytest.raises(UserError, match=message):
        gather_demonstrations(EnvSpec(f"{SCRIPTED}:Scripted"), Dialogues(tokenizer), ROBUST, max_turns=9)
    codes = EnvSpec("textarena/Mastermind-v0", {"code_length": 6, "num_numbers": 9})  # too many to be listed
    with pytest.raises(UserError, match=message):
        gather_demonstrations(codes, Dialogues(tokenizer), ROBUST, max_turns=9)


# The cache


@pytest.fixture
def prepare(model_directory, tmp_path):
    """`prepare(**changes)`: the weights, and whether they came from the cache of this test."""

    def run(
        model: Path | None = None,
        imitation: ImitationConfig | None = TINY,
        env: EnvSpec = GUESS,
        learner: LearnerConfig = LEARNER,
        max_turns: int = 5,
        cache: str = "cache",
    ):
        config = ModelConfig(model=str(model or model_directory(0)), imitation=imitation)
        lm, cached = prepare_model(config, env, learner=learner, max_turns=max_turns, cache=tmp_path / cache)
        return torch.cat([p.detach().reshape(-1) for p in lm.model.parameters()]), cached

    return run


def test_a_start_is_made_once(prepare, tmp_path):
    made, cached = prepare()
    assert not cached
    again, cached = prepare()
    assert cached
    assert torch.equal(made, again)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # and nothing half-written beside it
    elsewhere, cached = prepare(cache="other")
    assert not cached
    assert torch.equal(made, elsewhere)  # making it again gives the same


def test_without_imitation_it_is_the_model_itself(prepare, make_lm, tmp_path):
    weights, cached = prepare(imitation=None)
    assert not cached and not (tmp_path / "cache").exists()
    assert torch.equal(weights, torch.cat([p.detach().reshape(-1) for p in make_lm(0).model.parameters()]))


@pytest.mark.parametrize(
    "change",
    [
        {"imitation": TINY.model_copy(update={"seed": 1})},
        {"imitation": TINY.model_copy(update={"updates": 3})},
        {"imitation": TINY.model_copy(update={"lr": 2e-3})},
        {"imitation": TINY.model_copy(update={"mistakes": 0.1})},
        {"env": EnvSpec("GuessNumber-v0", {"high": 4})},
        {"env": EnvSpec("GridLake-v0", {"size": 2, "holes": 0})},
        {"max_turns": 6},
        {"learner": LEARNER.model_copy(update={"grad_clip": 0.5})},
        {"learner": LEARNER.model_copy(update={"weight_decay": 0.5})},
    ],
)
def test_whatever_it_depends_on_makes_another(prepare, change):
    prepare()
    assert prepare(**change)[1] is False
    assert prepare()[1] is True


@pytest.mark.parametrize("change", [{"lr": 5.0}, {"token_budget": 9000}, {"schedule": "linear"}])
def test_what_it_does_not_depend_on_does_not(prepare, change):
    prepare()
    assert prepare(learner=LEARNER.model_copy(update=change))[1] is True


def test_other_base_weights_make_another(prepare, model_directory):
    prepare()
    assert prepare(model=model_directory(1))[1] is False


def test_the_same_base_elsewhere_is_the_same(prepare, make_lm, tmp_path):
    prepare()
    make_lm(0).save(tmp_path / "copy")
    assert prepare(model=tmp_path / "copy")[1] is True


def test_an_edited_environment_makes_another(prepare, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SCRIPTED.read_text())
    env = EnvSpec(f"{file}:Scripted")
    assert prepare(env=env)[1] is False
    assert prepare(env=env)[1] is True
    file.write_text(SCRIPTED.read_text().replace('f"word {self.turn}"', 'f"words {self.turn}"'))
    assert prepare(env=env)[1] is False


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.delenv("TRPD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "trpd_agents"
