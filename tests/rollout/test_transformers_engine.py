"""The engine against plain forward passes: no cache, no padding, one conversation at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from trpd_agents.counter_rng import uniform
from trpd_agents.rollout import Request, Sampling, TransformersEngine
from trpd_agents.trajectory import Stop


@dataclass
class Played:
    tokens: list[int] = field(default_factory=list)
    actions: list[tuple[int, int]] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of the action tokens
    stops: list[Stop] = field(default_factory=list)


def script(seed: int, turns: int, vocab: int = 262) -> list[list[int]]:
    """What a conversation is fed before each of its actions."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocab, rng.integers(1, 14 if turn else 40)).tolist() for turn in range(turns)]


# Conversation -> its feeds. Different prompts, different lengths, and endings spread over the rounds.
SCRIPTS = {10 + c: script(c, turns) for c, turns in enumerate([5, 1, 3, 5, 2, 4])}


def converse(engine: TransformersEngine, sampling: Sampling, scripts: dict[int, list[list[int]]]) -> dict[int, Played]:
    """Play all of `scripts` in lock step, releasing each conversation when its script is over."""
    played = {c: Played() for c in scripts}
    for turn in range(max(map(len, scripts.values()))):
        live = [c for c in scripts if len(scripts[c]) > turn]
        answers = engine.generate([Request(c, scripts[c][turn], key=c) for c in live], sampling)
        for c, completion in zip(live, answers, strict=True):
            log = played[c]
            log.tokens += scripts[c][turn]
            log.actions.append((len(log.tokens), len(log.tokens) + len(completion.tokens)))
            log.tokens += completion.tokens
            log.logprobs += completion.logprobs
            log.stops.append(completion.stop)
        engine.release([c for c in live if len(scripts[c]) == turn + 1])
    return played


@pytest.fixture
def sampling(ends):
    return Sampling(max_new_tokens=6, end_ids=ends, seed=7)


@pytest.fixture
def played(make_lm, sampling):
    return converse(TransformersEngine(make_lm(0)), sampling, SCRIPTS)


def test_log_probabilities_are_those_of_a_plain_forward_pass(make_lm, played, reference_logprobs):
    for log in played.values():
        logp = reference_logprobs(make_lm(0), np.array(log.tokens))
        at = np.concatenate([np.arange(*span) for span in log.actions])
        wanted = logp[at, torch.tensor(log.tokens)[at]]
        assert torch.allclose(torch.tensor(log.logprobs), wanted, atol=1e-5, rtol=0)


def test_an_action_ends_with_its_first_end_token_or_at_the_limit(played, sampling):
    stops = set()
    for log in played.values():
        for (start, end), stop in zip(log.actions, log.stops, strict=True):
            action = log.tokens[start:end]
            assert not set(action[:-1]) & sampling.end_ids
            assert (stop is Stop.END) == (action[-1] in sampling.end_ids)
            assert stop is Stop.END or len(action) == sampling.max_new_tokens
            stops.add((stop, len(action) < sampling.max_new_tokens))
    assert len(stops) >= 2  # both kinds happened, so both were tested


@pytest.mark.parametrize("size", [1, 3])
def test_tokens_do_not_depend_on_the_batch(make_lm, played, sampling, size):
    names = list(SCRIPTS)
    for start in range(0, len(names), size):
        group = {c: SCRIPTS[c] for c in names[start : start + size]}
        for c, log in converse(TransformersEngine(make_lm(0)), sampling, group).items():
            assert log.tokens == played[c].tokens
            assert log.logprobs == pytest.approx(played[c].logprobs, abs=1e-5)


def test_tokens_do_not_depend_on_when_the_others_end(make_lm, played, sampling):
    shortened = {c: feeds if c == 10 else feeds[:2] for c, feeds in SCRIPTS.items()}
    found = converse(TransformersEngine(make_lm(0)), sampling, shortened)
    assert found[10].tokens == played[10].tokens


def test_batches_that_began_at_different_times_do_not_mix(make_lm, played, sampling):
    engine = TransformersEngine(make_lm(0))
    first, second = {10: SCRIPTS[10]}, {13: SCRIPTS[13]}
    tokens = {10: [], 13: []}
    for turn in range(6):  # 13 is one turn behind
        requests = [Request(10, first[10][turn], 10)] if turn < 5 else []
        requests += [Request(13, second[13][turn - 1], 13)] if turn else []
        for request, completion in zip(requests, engine.generate(requests, sampling), strict=True):
            tokens[request.conversation] += [*request.tokens, *completion.tokens]
    assert tokens == {c: played[c].tokens for c in tokens}


def test_a_conversation_may_pause_while_its_batch_goes_on(make_lm, played, sampling):
    engine = TransformersEngine(make_lm(0))
    tokens: dict[int, list[int]] = {10: [], 13: []}
    done = {10: 0, 13: 0}
    for asked in ([10, 13], [10], [13], [10, 13], [13], [10, 13], [10]):
        requests = [Request(c, SCRIPTS[c][done[c]], c) for c in asked]
        for request, completion in zip(requests, engine.generate(requests, sampling), strict=True):
            tokens[request.conversation] += [*request.tokens, *completion.tokens]
            done[request.conversation] += 1
    assert tokens == {c: played[c].tokens for c in tokens}


def test_temperature_zero_takes_the_most_likely_token(make_lm, ends, reference_logprobs):
    lm = make_lm(0)
    greedy = Sampling(max_new_tokens=4, end_ids=ends, temperature=0)
    scripts = {c: SCRIPTS[c] for c in (10, 12)}
    for log in converse(TransformersEngine(lm), greedy, scripts).values():
        logp = reference_logprobs(lm, np.array(log.tokens))
        for start, end in log.actions:
            assert logp[start:end].argmax(-1).tolist() == log.tokens[start:end]
        at = np.concatenate([np.arange(*span) for span in log.actions])
        assert log.logprobs == pytest.approx(logp[at].max(-1).values.tolist(), abs=1e-5)


def test_log_probabilities_are_at_temperature_one_whatever_was_sampled(make_lm, ends, reference_logprobs):
    lm = make_lm(0)
    cold = Sampling(max_new_tokens=6, end_ids=ends, temperature=0.5, seed=7)
    log = converse(TransformersEngine(lm), cold, {10: SCRIPTS[10]})[10]
    logp = reference_logprobs(lm, np.array(log.tokens))
    at = np.concatenate([np.arange(*span) for span in log.actions])
    assert log.logprobs == pytest.approx(logp[at, torch.tensor(log.tokens)[at]].tolist(), abs=1e-5)


@contextmanager
def counting(lm) -> Iterator[list[int]]:
    """Tokens fed to the model, per call; a conversation whose action has ended counts until it leaves the decoding."""
    fed: list[int] = []
    assert lm.caches  # which is tried out once

    def hook(module, args, kwargs):
        fed.append(kwargs["input_ids"].numel())

    handle = lm.model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield fed
    finally:
        handle.remove()


def test_each_token_is_fed_once(make_lm, sampling):
    for scripts in ({c: feeds} for c, feeds in SCRIPTS.items()):
        lm = make_lm(0)
        engine = TransformersEngine(lm)
        with counting(lm) as fed:
            played = converse(engine, sampling, scripts)
        # nothing follows the last one
        assert sum(fed) == engine.encoded == sum(len(log.tokens) - 1 for log in played.values())


def test_each_token_is_fed_once_in_company_too(make_lm, sampling):
    lm = make_lm(0)
    engine = TransformersEngine(lm)
    with counting(lm) as fed:
        played = converse(engine, sampling, SCRIPTS)
    assert engine.encoded == sum(len(log.tokens) - 1 for log in played.values())
    assert engine.encoded <= sum(fed) < 1.5 * engine.encoded  # no padding, few ended rows


# What conversations begin with in common


def groups(system: int, prompts: list[int], size: int) -> dict[int, list[list[int]]]:
    """`size` conversations for each prompt length, all with the same first `system` tokens, with feeds of their own."""
    rng = np.random.default_rng(system)
    head = rng.integers(3, 262, system).tolist()
    bodies = [head + [20 + i] + rng.integers(3, 262, n).tolist() for i, n in enumerate(prompts)]
    return {c: [bodies[c // size], *script(100 + c, 3)[1:]] for c in range(len(prompts) * size)}


@pytest.mark.parametrize(("system", "prompts", "size"), [(30, [5, 9, 1], 3), (0, [20, 20], 4), (12, [0], 5)])
def test_a_shared_beginning_is_fed_once(make_lm, sampling, reference_logprobs, system, prompts, size):
    lm = make_lm(0)
    scripts = groups(system, prompts, size)
    engine = TransformersEngine(lm)
    played = converse(engine, sampling, scripts)
    every = sum(len(log.tokens) - 1 for log in played.values())
    saved = (size - 1) * sum(system + 1 + n for n in prompts) + (len(prompts) - 1) * system
    assert engine.encoded == every - saved
    for c, log in played.items():
        alone = converse(TransformersEngine(lm), sampling, {c: scripts[c]})[c]
        assert alone.tokens == log.tokens
        logp = reference_logprobs(lm, np.array(log.tokens))
        at = np.concatenate([np.arange(*span) for span in log.actions])
        assert log.logprobs == pytest.approx(logp[at, torch.tensor(log.tokens)[at]].tolist(), abs=1e-5)


def test_a_latecomer_takes_over_what_a_live_conversation_began_with(make_lm, sampling):
    scripts = groups(30, [5, 9], 1)
    engine = TransformersEngine(make_lm(0))
    engine.generate([Request(0, scripts[0][0], 0)], sampling)
    before = engine.encoded
    late = engine.generate([Request(1, scripts[1][0], 1)], sampling)[0]
    assert engine.encoded - before == len(scripts[1][0]) - 30 + len(late.tokens) - 1
    assert late == converse_once(make_lm(0), sampling, scripts[1][0], key=1, like=late)


def converse_once(lm, sampling, prompt, key, like):
    """The same request in an engine of its own; log-probabilities close to those of `like` are taken as equal."""
    alone = TransformersEngine(lm).generate([Request(1, prompt, key)], sampling)[0]
    assert alone.logprobs == pytest.approx(like.logprobs, abs=1e-5)
    alone.logprobs = like.logprobs
    return alone


def test_a_beginning_that_other_weights_encoded_is_not_taken_over(make_lm, sampling):
    prompt = SCRIPTS[10][0]
    engine = TransformersEngine(make_lm(1))
    engine.generate([Request(0, prompt, 0)], sampling)
    engine.load_weights(make_lm(0).model.state_dict(), version=1)
    late = engine.generate([Request(1, prompt, 1)], sampling)[0]
    assert late == converse_once(make_lm(0), sampling, prompt, key=1, like=late)


# Any company at all


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_schedule_gives_what_each_conversation_gives_alone(make_lm, ends, reference_logprobs, data, temperature):
    """Conversations join, pause, speak and leave as it pleases; each is compared with plain forward passes."""
    lm = make_lm(0)
    sampling = Sampling(max_new_tokens=5, end_ids=ends, seed=3, temperature=temperature)
    scripts = [
        [
            data.draw(st.sampled_from([[7] * 11, [7] * 14, []])) * (t == 0) + script(8 * c + t, 1)[0][: 1 + 9 * (c % 3)]
            for t in range(data.draw(st.integers(1, 4)))
        ]
        for c in range(data.draw(st.integers(1, 7)))
    ]
    engine = TransformersEngine(lm)
    logs = [Played() for _ in scripts]
    done = [0] * len(scripts)
    while waiting := [c for c, turns in enumerate(scripts) if done[c] < len(turns)]:
        asked = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        answers = engine.generate([Request(c, scripts[c][done[c]], key=c) for c in asked], sampling)
        for c, answer in zip(asked, answers, strict=True):
            log = logs[c]
            log.tokens += scripts[c][done[c]]
            log.actions.append((len(log.tokens), len(log.tokens) + len(answer.tokens)))
            log.tokens += answer.tokens
            log.logprobs += answer.logprobs
            done[c] += 1
        engine.release([c for c in asked if done[c] == len(scripts[c])])
    for c, log in enumerate(logs):
        logp = reference_logprobs(lm, np.array(log.tokens))
        at = np.concatenate([np.arange(*span) for span in log.actions])
        spoken = torch.tensor(log.tokens)[at]
        assert log.logprobs == pytest.approx(logp[at, spoken].tolist(), abs=1e-5)
        if temperature == 0:
            assert logp[at].argmax(-1).tolist() == spoken.tolist()
        else:
            drawn = [invert(logp[t], float(uniform(3, c, int(t)))) for t in at]
            assert drawn == spoken.tolist()


def invert(logp: torch.Tensor, draw: float) -> int:
    """The first token at which the running sum of probabilities exceeds `draw`, from the definition."""
    running = logp.double().exp().cumsum(-1)
    return int((running > draw * running[-1]).nonzero()[0])


def test_the_models_attention_is_left_as_it_was(make_lm, sampling):
    lm = make_lm(0)
    before = lm.model.config._attn_implementation
    converse(TransformersEngine(lm), sampling, SCRIPTS)
    assert lm.model.config._attn_implementation == before


def test_half_precision_models_report_their_log_probabilities_in_single_precision(make_lm, sampling):
    lm = make_lm(0, dtype=torch.bfloat16)
    for log in converse(TransformersEngine(lm), sampling, SCRIPTS).values():
        with torch.no_grad():
            logp = lm.model(torch.tensor([log.tokens])).logits[0].float().log_softmax(-1)
        at = torch.cat([torch.arange(*span) for span in log.actions])
        wanted = logp[at - 1, torch.tensor(log.tokens)[at]]
        # Sums in another order round to other bfloat16 numbers, of 3 significant digits.
        assert float((torch.tensor(log.logprobs) - wanted).abs().median()) < 0.05
        assert len({round(x * 2**20) % 2**8 for x in log.logprobs}) > 1  # not rounded to bfloat16 themselves


def test_sampled_frequencies_follow_the_softmax(make_lm):
    lm = make_lm(3, vocab_size=6)
    engine = TransformersEngine(lm)
    n = 3000
    prompt = [1, 4, 2]
    sampling = Sampling(max_new_tokens=1, end_ids=frozenset({5}), seed=1)
    drawn = [c.tokens[0] for c in engine.generate([Request(i, prompt, i) for i in range(n)], sampling)]
    with torch.no_grad():
        p = lm.model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    counts = np.bincount(drawn, minlength=6)
    assert (p * n).min() > 5  # else the test statistic is not chi-square
    assert chisquare(counts, p * n).pvalue > 1e-3


def test_draws_differ_by_seed_key_and_position(make_lm, ends):
    def first(seed: int, key: int) -> list[int]:
        sampling = Sampling(max_new_tokens=6, end_ids=frozenset({0}), seed=seed)
        return TransformersEngine(make_lm(0)).generate([Request(1, [5, 6, 7], key)], sampling)[0].tokens

    assert first(0, 0) == first(0, 0)
    assert len({tuple(first(seed, key)) for seed in (0, 1) for key in (0, 1)}) == 4


def test_load_weights_takes_a_foreign_state(make_lm, sampling, played):
    engine = TransformersEngine(make_lm(1))
    assert converse(engine, sampling, SCRIPTS)[10].tokens != played[10].tokens
    engine.load_weights(make_lm(0).model.state_dict(), version=5)
    assert engine.version == 5
    assert converse(engine, sampling, SCRIPTS)[10].tokens == played[10].tokens


def test_load_weights_with_its_own_state_is_only_a_new_version(make_lm):
    lm = make_lm(0)
    engine = TransformersEngine(lm)
    state = lm.model.state_dict()
    engine.load_weights(state, version=2)
    assert engine.version == 2
    assert all(state[name].data_ptr() == t.data_ptr() for name, t in lm.model.state_dict().items())


def test_logprobs_score_any_sequence(make_lm, reference_logprobs):
    lm = make_lm(0)
    tokens = np.array(script(0, 1)[0] + script(1, 1)[0], dtype=np.int32)
    positions = np.array([1, 5, len(tokens) - 1])
    scores = TransformersEngine(lm).logprobs([tokens], [positions], top_k=2)[0]
    logp = reference_logprobs(lm, tokens)
    assert scores.lt == pytest.approx(logp[positions, torch.from_numpy(tokens)[positions].long()].numpy(), abs=1e-5)
    assert scores.top_ids is not None and scores.top_ids.shape == (3, 2)


def test_release_forgets(make_lm, sampling):
    engine = TransformersEngine(make_lm(0))
    converse(engine, sampling, SCRIPTS)
    assert not len(engine._cache) and not engine._unfed and not engine._begun
    engine.release([99])  # a conversation it never had


# Taking in what somebody else said


def say(engine: TransformersEngine, sampling: Sampling, names: list[int]) -> dict[int, tuple[Played, list[float]]]:
    """Odd turns are given, two tokens of them scored, even ones sampled; of all of a given turn's when it is turn 3."""
    found = {c: (Played(), list[float]()) for c in names}
    for turn in range(max(len(SCRIPTS[c]) for c in names)):
        live = [c for c in names if len(SCRIPTS[c]) > turn]
        requests = [Request(c, SCRIPTS[c][turn], key=c) for c in live]
        if turn % 2:
            counts = [len(r.tokens) if turn == 3 else min(2, len(r.tokens)) for r in requests]
            for c, r, count, values in zip(live, requests, counts, engine.append(requests, counts), strict=True):
                log, scores = found[c]
                log.tokens += r.tokens
                log.actions.append((len(log.tokens) - count, len(log.tokens)))
                assert values.dtype == np.float32 and values.shape == (count,)
                scores += values.tolist()
        else:
            for c, r, completion in zip(live, requests, engine.generate(requests, sampling), strict=True):
                found[c][0].tokens += [*r.tokens, *completion.tokens]
        engine.release([c for c in live if len(SCRIPTS[c]) == turn + 1])
    return found


def test_given_tokens_are_scored_like_any_others(make_lm, sampling, reference_logprobs):
    engine = TransformersEngine(make_lm(0))
    for log, scores in say(engine, sampling, list(SCRIPTS)).values():
        logp = reference_logprobs(make_lm(0), np.array(log.tokens))
        at = [p for span in log.actions for p in range(*span)]
        assert scores == pytest.approx(logp[at, torch.tensor(log.tokens)[at]].tolist(), abs=1e-5)
    assert not len(engine._cache) and not engine._unfed and not engine._begun


def test_what_follows_given_tokens_does_not_depend_on_the_batch(make_lm, sampling):
    together = say(TransformersEngine(make_lm(0)), sampling, list(SCRIPTS))
    for c in SCRIPTS:
        assert say(TransformersEngine(make_lm(0)), sampling, [c])[c][0].tokens == together[c][0].tokens


def test_given_tokens_are_fed_once_too(make_lm, sampling):
    engine = TransformersEngine(make_lm(0))
    found = say(engine, sampling, list(SCRIPTS))
    assert engine.encoded == sum(len(log.tokens) - 1 for log, _ in found.values())


def test_a_conversation_may_begin_with_given_tokens(make_lm, reference_logprobs):
    tokens = SCRIPTS[10][0]
    values = TransformersEngine(make_lm(0)).append([Request(1, tokens, 1)], [len(tokens) - 1])[0]
    logp = reference_logprobs(make_lm(0), np.array(tokens))
    assert values == pytest.approx([float(logp[t, tokens[t]]) for t in range(1, len(tokens))], abs=1e-5)
    assert TransformersEngine(make_lm(0)).append([Request(1, [5], 1)], [0])[0].shape == (0,)


def test_conversations_may_be_opened_together_and_answered_apart(make_lm, played, sampling):
    """Nothing is asked of what was given: then it is as if it had come with the first request, in fewer passes."""
    lm = make_lm(0)
    engine = TransformersEngine(lm)
    opened = engine.append([Request(c, SCRIPTS[c][0], c) for c in SCRIPTS], [0] * len(SCRIPTS))
    assert {values.shape for values in opened} == {(0,)}
    for c in SCRIPTS:  # each in a round of its own
        (completion,) = engine.generate([Request(c, [], c)], sampling)
        (start, end) = played[c].actions[0]
        assert completion.tokens == played[c].tokens[start:end]


def test_scores_of_tokens_that_nothing_predicts_are_refused(make_lm):
    engine = TransformersEngine(make_lm(0))
    with pytest.raises(ValueError, match="counts: found 3 for conversation 1, wanted at most its 3 new tokens, each"):
        engine.append([Request(1, [5, 6, 7], 1)], [3])
