"""The built-in base models: small, of one family, fluent in the games' format, and without a policy."""

from __future__ import annotations

import itertools

import pytest

from trpd_agents.base_models.make import SIZES, encode, random_games
from trpd_agents.dialogue import check_same_tokens
from trpd_agents.models import builtin_models, load_model
from trpd_agents.rollout import Collector, Episode, Limits, Sampling, TransformersEngine
from trpd_agents.rollout.dialogues import Dialogues
from trpd_agents.textenv import EnvSpec
from trpd_envs.courier import Courier
from trpd_envs.tools import Call, parse_calls


def test_all_of_them_fit_into_eight_megabytes():
    files = [file for folder in builtin_models().values() for file in folder.iterdir()]
    assert set(builtin_models()) == set(SIZES)
    assert sum(file.stat().st_size for file in files) < 8_000_000


def test_they_share_their_tokens_and_differ_in_size():
    tiny, small = (load_model(f"builtin:{name}") for name in ("tiny", "small"))
    check_same_tokens(tiny.tokenizer, small.tokenizer)
    assert tiny.parameters < small.parameters < 1_000_000


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_they_know_the_format_and_not_the_task(name):
    lm = load_model(f"builtin:{name}")
    sampling = Sampling(12, frozenset({lm.tokenizer.eos_token_id}))
    collector = Collector(EnvSpec("Courier-v0"), TransformersEngine(lm), lm.tokenizer, sampling, Limits(12))
    played = collector.collect([Episode(seed, seed) for seed in range(48)])
    turns = [turn for trajectory in played for turn in trajectory.turns]
    well_formed = [len(calls := parse_calls(turn.text)) == 1 and isinstance(calls[0], Call) for turn in turns]
    assert sum(well_formed) / len(turns) > 0.95
    assert sum(bool(t.success) for t in played) / len(played) < 0.4  # random legal play solves 0.12


def test_what_they_learn_from_never_asks_an_expert(monkeypatch):
    def refuse(self):
        raise AssertionError("an expert was asked")

    monkeypatch.setattr(Courier, "expert", refuse)
    lm = load_model("builtin:tiny")
    dialogues = Dialogues(lm.tokenizer)
    for game in itertools.islice(random_games(3), 25):
        assert len(encode(dialogues, *game)) > 10
