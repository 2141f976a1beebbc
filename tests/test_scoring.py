"""Scores at explicit positions against one plain log-softmax per sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trpd_agents import scoring
from trpd_agents.batching import pad_ids
from trpd_agents.scoring import score_tokens
from trpd_agents.teacher import LocalTeacher
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn

rng = np.random.default_rng(0)
SEQUENCES = [rng.integers(3, 262, n).astype(np.int32) for n in (30, 7, 55, 2, 41)]
POSITIONS = [np.array(p) for p in ([1, 2, 3, 29], [6], [10, 11, 40], [1], [5, 39, 40])]


def wanted(reference_logprobs, lm) -> list[torch.Tensor]:
    """Per sequence the whole distributions `[n, V]` that its scored tokens came from."""
    return [reference_logprobs(lm, s)[p] for s, p in zip(SEQUENCES, POSITIONS, strict=True)]


def test_scores_are_those_of_a_naive_log_softmax(make_lm, reference_logprobs):
    lm = make_lm(0)
    scores = score_tokens(lm, SEQUENCES, POSITIONS)
    for found, logp, tokens, positions in zip(
        scores, wanted(reference_logprobs, lm), SEQUENCES, POSITIONS, strict=True
    ):
        own = logp.gather(1, torch.from_numpy(tokens[positions]).long()[:, None])[:, 0].numpy()
        assert found.positions.tolist() == positions.tolist()
        assert found.lt == pytest.approx(own, abs=1e-5)
        assert found.top_ids is None and found.top_lt is None and found.hidden is None and found.entropy is None


def test_a_score_is_of_the_token_at_its_position_given_those_before(make_lm):
    """A model that surely repeats its last token: repetitions score near 0, everything else far below."""
    lm = make_lm(0)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()  # no layer adds anything: a token's state is its embedding
        lm.model.model.embed_tokens.weight.normal_(generator=torch.Generator().manual_seed(0))
        lm.model.lm_head.weight.copy_(lm.model.model.embed_tokens.weight * 4)
    tokens = np.array([5, 5, 9, 9, 9, 20, 5], dtype=np.int32)
    lt = score_tokens(lm, [tokens], [np.arange(1, 7)])[0].lt
    assert (lt > -0.5).tolist() == [True, False, True, True, False, False]


@pytest.mark.parametrize("token_budget", [1, 60, 100, 10_000])
def test_the_token_budget_does_not_matter(make_lm, token_budget):
    lm = make_lm(0)
    whole = score_tokens(lm, SEQUENCES, POSITIONS, top_k=3)
    split = score_tokens(lm, SEQUENCES, POSITIONS, top_k=3, token_budget=token_budget)
    for a, b in zip(whole, split, strict=True):
        assert a.lt == pytest.approx(b.lt, abs=1e-5)
        assert np.array_equal(a.top_ids, b.top_ids)


def test_a_long_list_of_positions_is_taken_in_chunks(make_lm, monkeypatch):
    lm = make_lm(0)
    positions = [np.arange(1, len(s)) for s in SEQUENCES]
    whole = score_tokens(lm, SEQUENCES, positions, top_k=3, entropy=True)
    widths = []
    monkeypatch.setattr(scoring, "position_chunk", lambda vocab_size: 3)
    handle = lm.model.lm_head.register_forward_hook(lambda module, args, out: widths.append(out.shape[0]))
    chunked = score_tokens(lm, SEQUENCES, positions, top_k=3, entropy=True)
    handle.remove()
    assert max(widths) == 3
    for a, b in zip(whole, chunked, strict=True):
        assert a.lt == pytest.approx(b.lt, abs=1e-5)
        assert np.array_equal(a.top_ids, b.top_ids)
        assert a.top_lt == pytest.approx(b.top_lt, abs=1e-5)
        assert a.entropy == pytest.approx(b.entropy, abs=1e-5)


def test_top_tokens_are_the_most_likely(make_lm, reference_logprobs):
    lm = make_lm(0)
    for found, logp in zip(
        score_tokens(lm, SEQUENCES, POSITIONS, top_k=4), wanted(reference_logprobs, lm), strict=True
    ):
        values, ids = logp.topk(4, dim=-1)
        assert found.top_ids.dtype == np.int32
        assert np.array_equal(found.top_ids, ids.numpy())
        assert found.top_lt == pytest.approx(values.numpy(), abs=1e-5)


def test_entropies_are_those_of_the_whole_distributions(make_lm, reference_logprobs):
    lm = make_lm(0)
    found = score_tokens(lm, SEQUENCES, POSITIONS, entropy=True)
    for scores, logp in zip(found, wanted(reference_logprobs, lm), strict=True):
        assert scores.entropy.dtype == np.float32 and scores.entropy.shape == scores.lt.shape
        assert scores.entropy == pytest.approx(-(logp.exp() * logp).sum(-1).numpy(), abs=1e-4)
        assert scores.top_ids is None


def test_tokens_a_model_rules_out_have_no_part_in_the_entropy(make_lm, monkeypatch):
    lm = make_lm(0)
    monkeypatch.setattr(
        type(lm), "logits", lambda self, hidden: torch.tensor([0.0, 0.0, -torch.inf]).expand(len(hidden), 3)
    )
    (scores,) = score_tokens(lm, [np.array([1, 1, 0])], [np.array([1, 2])], entropy=True)
    assert scores.entropy == pytest.approx([np.log(2)] * 2)


def test_kept_hidden_states_give_the_whole_distribution(make_lm, reference_logprobs):
    teacher = LocalTeacher(make_lm(0), keep_hidden=True, entropy=True)
    trajectories = [
        Trajectory(
            id=i,
            env_id="x",
            env_kwargs={},
            seed=i,
            tokens=tokens,
            logprobs=np.zeros(len(tokens), dtype=np.float32),
            turns=[Turn((0, 1), (1, len(tokens)), "student", Stop.END, "", "")],
            outcome=Outcome.TERMINATED,
            success=True,
            reward=0.0,
        )
        for i, tokens in enumerate(SEQUENCES)
    ]
    for trajectory, scores in zip(trajectories, teacher.score(trajectories), strict=True):
        assert scores.hidden is not None
        distribution = teacher.log_distribution(scores.hidden)
        reference = reference_logprobs(teacher.lm, trajectory.tokens)[1:]
        assert torch.allclose(distribution, reference, atol=1e-5)
        assert scores.entropy == pytest.approx(-(distribution.exp() * distribution).sum(-1).numpy(), abs=1e-4)
        own = distribution.gather(1, torch.from_numpy(trajectory.tokens[1:]).long()[:, None])[:, 0]
        assert scores.lt == pytest.approx(own.numpy(), abs=1e-5)


def test_nothing_to_score(make_lm):
    none = np.zeros(0, dtype=np.int64)
    scores = score_tokens(make_lm(0), [SEQUENCES[0], SEQUENCES[1]], [none, POSITIONS[1]], top_k=2, entropy=True)
    assert len(scores[0].positions) == len(scores[0].lt) == 0
    assert len(scores[1].lt) == 1
    assert score_tokens(make_lm(0), [], []) == []
    assert isinstance(score_tokens(make_lm(0), [SEQUENCES[0]], [none])[0], Scores)


def test_padding_is_on_the_right():
    ids = pad_ids([np.array([3, 4]), np.array([5, 6, 7])], torch.device("cpu"))
    assert ids.tolist() == [[3, 4, 0], [5, 6, 7]]
