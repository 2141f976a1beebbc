"""What an update keeps: one chunk's logits, no padding, no activations if so wished; and what it does without room."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trpd_agents import memory
from trpd_agents.batching import position_chunk
from trpd_agents.config import LearnerConfig
from trpd_agents.credit import CreditConfig, assign_credit
from trpd_agents.credit.config import ForwardKLOutliers, FullEstimator, SoftGate
from trpd_agents.errors import RunError, UserError
from trpd_agents.learner import Learner
from trpd_agents.models import LanguageModel, pick_autocast
from trpd_agents.scoring import score_tokens
from trpd_agents.teacher import LocalTeacher
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn, pad_scored

METHODS = {
    "opd": CreditConfig(),
    "forward": CreditConfig(gate=SoftGate(), outlier=ForwardKLOutliers(top_k=8)),
    "exact": CreditConfig(estimator=FullEstimator()),
}
VOCABULARY = 151_936  # Qwen's
BEGINNING = np.random.default_rng(9).integers(3, 300, 30)


def episodes(lengths: list[int], seed: int = 0) -> list[Trajectory]:
    """Three groups of conversations; those of a group begin alike, and half of all tokens are the student's."""
    rng = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(lengths):
        tokens = np.concatenate([BEGINNING + i % 3, rng.integers(3, 300, n)]).astype(np.int32)
        turns = [Turn((a - 4, a), (a, a + 4), "student", Stop.END, "", "") for a in range(34, len(tokens) - 3, 8)]
        logprobs = np.full(len(tokens), -5.0, dtype=np.float32)
        made.append(Trajectory(i, "", {}, i, tokens, logprobs, turns, Outcome.TERMINATED, True, 0.0))
    return made


def batch(lengths: list[int], teacher: LocalTeacher) -> list[Trajectory]:
    made = episodes(lengths)
    return [dataclasses.replace(t, scores=s) for t, s in zip(made, teacher.score(made), strict=True)]


def gradient(
    lm: LanguageModel, made: list[Trajectory], method: CreditConfig, teacher: LocalTeacher, **settings: Any
) -> dict[str, torch.Tensor]:
    learner = Learner(lm, LearnerConfig(lr=1e-3, grad_clip=1e9, **settings))
    found: dict[str, torch.Tensor] = {}

    def capture() -> None:
        found.update({name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None})

    learner.optimizer.step = capture
    learner.update(made, assign_credit(pad_scored(made), method), method, teacher, progress=0.0)
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a and a.keys() == b.keys()
    return all(torch.allclose(a[n], b[n], rtol=1e-4, atol=1e-5 * float(b[n].abs().max())) for n in a)


@pytest.fixture
def teacher(make_lm) -> LocalTeacher:
    return LocalTeacher(make_lm(1), top_k=8, keep_hidden=True)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("token_budget", [16, 200, 10_000])
def test_packed_conversations_give_the_padded_ones_step(make_lm, teacher, method, token_budget):
    made = batch([40, 12, 33, 60, 25, 9, 40], teacher)
    lm, padded = make_lm(0), make_lm(0)
    padded.__dict__["packs"] = False
    assert lm.packs
    found = gradient(lm, made, method, teacher, token_budget=token_budget)
    assert same(found, gradient(padded, made, method, teacher))


@pytest.mark.parametrize("packs", [True, False])
def test_activation_checkpointing_gives_the_same_step(make_lm, teacher, packs):
    made, lm = batch([40, 12, 33], teacher), make_lm(0)
    lm.__dict__["packs"] = packs and lm.packs
    wanted = gradient(lm, made, METHODS["forward"], teacher)
    passes: list[int] = []
    lm.model.model.layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
    found = gradient(lm, made, METHODS["forward"], teacher, activation_checkpointing=True)
    assert same(found, wanted)
    assert len(passes) == 2  # once forward, once to have its activations again
    assert not lm.model.model.layers[0].gradient_checkpointing and not lm.model.training


def test_activation_checkpointing_keeps_less(make_lm, teacher):
    made, lm = batch([40, 12, 33], teacher), make_lm(0)
    kept = []
    for flag in (False, True):
        with (saved := Saved(at_least=1)):
            gradient(lm, made, METHODS["opd"], teacher, activation_checkpointing=flag)
        kept.append(saved.most)
    assert kept[1] < 0.5 * kept[0]


def test_a_model_without_activation_checkpointing_is_refused(make_lm):
    lm = make_lm(0)
    lm.model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"learner\.activation_checkpointing.*set it to false"):
        Learner(lm, LearnerConfig(lr=1e-3, activation_checkpointing=True))


# A real vocabulary


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """The most elements that are kept for a backward pass at one time, in tensors of at least so many."""

    def __init__(self, at_least: int):
        self.now = self.most = 0
        tracker = self

        class Held:
            def __init__(self, tensor: torch.Tensor):
                self.tensor = tensor
                self.size = tensor.numel() if tensor.numel() >= at_least else 0
                tracker.now += self.size
                tracker.most = max(tracker.most, tracker.now)

            def __del__(self) -> None:
                tracker.now -= self.size

        super().__init__(Held, lambda held: held.tensor)


@pytest.fixture
def qwen_sized(make_lm) -> LanguageModel:
    lm = make_lm(0, hidden=8, vocab_size=VOCABULARY)
    assert lm.packs
    return lm


def test_scoring_never_makes_logits_of_all_positions(qwen_sized):
    chunk = position_chunk(VOCABULARY)
    sequence = np.random.default_rng(0).integers(3, VOCABULARY, 2 * chunk + 40)
    with Largest() as largest:
        (scores,) = score_tokens(qwen_sized, [sequence], [np.arange(1, len(sequence))], top_k=4)
    assert len(scores.lt) == len(sequence) - 1 > 2 * chunk
    assert chunk * VOCABULARY == largest.elements <= 2**25


@pytest.mark.parametrize("method", [METHODS["forward"], METHODS["exact"]], ids=["forward", "exact"])
def test_an_update_keeps_one_chunk_of_logits_however_many_positions_there_are(qwen_sized, method, monkeypatch):
    monkeypatch.setattr("trpd_agents.learner.learner.position_chunk", lambda vocab_size: 16)
    teacher = LocalTeacher(qwen_sized, top_k=8, keep_hidden=True)
    kept, largest = [], []
    for length in (34, 130):
        made = batch([length], teacher)
        with Largest() as found, (saved := Saved(at_least=VOCABULARY)):
            gradient(qwen_sized, made, method, teacher)
        weights = VOCABULARY * 8
        assert saved.now == 0
        kept.append(saved.most)
        largest.append(found.elements)
        assert found.elements == max(16 * VOCABULARY, weights)
    assert len(made[0].action_positions()) > 3 * 16
    assert kept[0] == kept[1] <= 4 * 16 * VOCABULARY


# No room


def failing(times: int, error: Exception, work: Any) -> Any:
    """`work`, which fails so often before it succeeds."""
    calls = itertools.count()

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) < times:
            raise error
        return work(*args, **kwargs)

    return call


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["device", "processor"])
def test_an_update_without_room_is_done_again_in_halves(make_lm, teacher, monkeypatch, error):
    made, lm = batch([40, 12, 33], teacher), make_lm(0)
    wanted = gradient(lm, made, METHODS["opd"], teacher)
    learner = Learner(lm, LearnerConfig(lr=1e-3, grad_clip=1e9, token_budget=100))
    budgets, backward = [], learner._backward
    batches = lm.batches
    monkeypatch.setattr(LanguageModel, "batches", lambda self, s, budget: budgets.append(budget) or batches(s, budget))
    calls = itertools.count()

    def second_fails(*args: Any, **kwargs: Any) -> Any:  # the first micro-batch has left its gradient by then
        if next(calls) == 1:
            raise error
        return backward(*args, **kwargs)

    learner._backward = second_fails
    found: dict[str, torch.Tensor] = {}
    learner.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in lm.model.named_parameters()})
    credit = assign_credit(pad_scored(made), METHODS["opd"])
    with pytest.warns(RuntimeWarning, match="update.*50 tokens instead of 100.*learner.token_budget"):
        learner.update(made, credit, METHODS["opd"], teacher, progress=0.0)
    assert same(found, wanted)
    assert not lm.model.training
    learner.update(made, credit, METHODS["opd"], teacher, progress=0.0)
    assert budgets == [100, 50, 50]  # what did not fit once is not tried again


def test_an_update_that_never_fits_says_what_to_lower(make_lm, teacher):
    made, lm = batch([40, 12, 33], teacher), make_lm(0)
    learner = Learner(lm, LearnerConfig(lr=1e-3))
    learner._backward = failing(2, ERRORS[0], learner._backward)
    credit = assign_credit(pad_scored(made), METHODS["opd"])
    with pytest.warns(RuntimeWarning), pytest.raises(RunError) as raised:
        learner.update(made, credit, METHODS["opd"], teacher, progress=0.0)
    for words in ("in the update", "1024 tokens", "learner.token_budget (2048)", "activation_checkpointing=true"):
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("times", [1, 2])
def test_scoring_without_room_is_done_again_in_halves_once(make_lm, monkeypatch, times):
    lm, made = make_lm(0), episodes([40, 12, 33])
    asked = [t.tokens for t in made], [t.action_positions() for t in made]
    wanted = score_tokens(lm, *asked)
    monkeypatch.setattr(lm, "logits", failing(times, ERRORS[0], lm.logits))
    if times == 1:
        with pytest.warns(RuntimeWarning, match="scoring.*64 tokens instead of 128"):
            found = score_tokens(lm, *asked, token_budget=128)
        for a, b in zip(found, wanted, strict=True):
            assert a.lt == pytest.approx(b.lt, abs=1e-5)
    else:
        with pytest.warns(RuntimeWarning), pytest.raises(RunError, match=r"in the scoring.*learner\.token_budget"):
            score_tokens(lm, *asked, token_budget=128)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def work(token_budget: int) -> None:
        raise RuntimeError("shapes do not match")

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="shapes"):
        warnings.simplefilter("error")
        memory.within_memory(work, 8, phase="update")


# Precision


def test_bfloat16_is_refused_where_it_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    device = SimpleNamespace(type="cuda")
    with pytest.raises(UserError, match=r"learner\.dtype=bfloat16: cuda.*float32"):
        pick_autocast("bfloat16", device)
    assert not pick_autocast("auto", device)
    assert pick_autocast("bfloat16", torch.device("cpu"))
    assert not pick_autocast("auto", torch.device("cpu")) and not pick_autocast("float32", torch.device("cpu"))


def test_a_device_without_bfloat16_products_is_found_out(monkeypatch):
    def ones(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(UserError, match="mps here cannot compute in it"):
        pick_autocast("bfloat16", torch.device("mps"))


def test_scores_and_steps_in_bfloat16_are_near_those_in_float32(make_lm, teacher):
    made, lm = batch([40, 12, 33], teacher), make_lm(0)
    at = made[0].action_positions()
    exact = score_tokens(lm, [made[0].tokens], [at], keep_hidden=True)[0]
    half = score_tokens(dataclasses.replace(lm, bfloat16=True), [made[0].tokens], [at], keep_hidden=True)[0]
    assert half.lt.dtype == np.float32
    assert 1e-6 < np.abs(half.lt - exact.lt).max() < 0.3
    wanted = gradient(lm, made, METHODS["opd"], teacher)
    found = gradient(lm, made, METHODS["opd"], teacher, dtype="bfloat16")
    a, b = (torch.cat([g.flatten() for g in part.values()]) for part in (found, wanted))
    assert 0.98 < float(torch.cosine_similarity(a, b, dim=0)) < 1 - 1e-9
