"""`training.save_top_k` stores what people look at, and changes nothing that is learned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from trpd_agents.config import parse_config
from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.credit import PRESETS, assign_credit
from trpd_agents.trajectory import Scores, pad_scored


def test_the_teacher_is_asked_for_what_either_reads(runs) -> None:
    data = read_yaml(runs.CONFIG)
    for preset, saved, wanted in (("trajectory", 0, 0), ("trajectory", 5, 5), ("tropd", 5, 64), ("tropd", 80, 80)):
        training = {**data["training"], "save_top_k": saved}
        assert parse_config({**data, "credit": {"preset": preset}, "training": training}).top_k == wanted


@pytest.mark.parametrize("preset", ["trajectory", "tropd", "eopd"])
def test_weights_do_not_depend_on_how_many_are_stored(runs, preset) -> None:
    rng = np.random.default_rng(0)
    episodes = [runs.make_episode(k, ratios=rng.normal(-0.5, 1, (4, 2)).tolist(), top=False) for k in range(4)]
    more = []
    for episode in episodes:
        n = len(episode.scores.positions)
        lt = -np.sort(rng.random((n, 70)).astype(np.float32) * 9)
        lt[rng.random((n, 70)) < 0.02] = np.nan
        of = {"top_ids": np.tile(np.arange(70, dtype=np.int32), (n, 1)), "top_lt": lt}
        scores = dataclasses.replace(episode.scores, **of, entropy=rng.random(n).astype(np.float32) * 2)
        more.append(dataclasses.replace(episode, scores=scores))
    method = PRESETS[preset].config
    read = method.forward_kl.top_k if method.forward_kl is not None else 70
    fewer = [dataclasses.replace(t, scores=first(t.scores, read)) for t in more]
    a, b = (assign_credit(pad_scored(batch), method, 3, 0) for batch in (more, fewer))
    for field in dataclasses.fields(a):
        if isinstance(value := getattr(a, field.name), torch.Tensor):
            assert torch.equal(value, getattr(b, field.name)), field.name


def first(scores: Scores, k: int) -> Scores:
    return dataclasses.replace(scores, top_ids=scores.top_ids[:, :k], top_lt=scores.top_lt[:, :k])
