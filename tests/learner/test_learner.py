"""A learner's step against a naive reference, and everything it must not depend on."""

from __future__ import annotations

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch

from trpd_agents.config import LearnerConfig
from trpd_agents.credit import Credit, CreditConfig, assign_credit
from trpd_agents.credit.config import (
    BernoulliGate,
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    KeptTokensNormaliser,
    OccupancyRule,
    PrefixGuidance,
    SampledEstimator,
    SoftGate,
    TopKEstimator,
    TurnMeanNormaliser,
)
from trpd_agents.errors import RunError
from trpd_agents.learner import Learner
from trpd_agents.learner import learner as learner_module
from trpd_agents.learner.divergences import LOG_PROB_FLOOR
from trpd_agents.learner.schedule import schedule_factor
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Plan, Request, Sampling, TransformersEngine
from trpd_agents.teacher import LocalTeacher
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Outcome, Trajectory, Turn, pad_scored

METHODS = {
    "opd": CreditConfig(),
    "tropd": CreditConfig(
        gate=BernoulliGate(), outlier=ForwardKLOutliers(top_k=8), guidance=PrefixGuidance(beta=0.5, turns=1)
    ),
    "exact": CreditConfig(rule=OccupancyRule(budget=20.0), estimator=FullEstimator()),
    "coarse": CreditConfig(
        gate=SoftGate(),
        outlier=ForwardKLOutliers(top_k=3, renormalise=True, gradient="score"),
        estimator=TopKEstimator(top_k=5),
        normaliser=TurnMeanNormaliser(share=0.7),
    ),
}
UNCLIPPED = LearnerConfig(lr=1e-3, grad_clip=1e9)


def play(make_lm, ends, episodes: int, guided: bool) -> list[Trajectory]:
    lm = make_lm(0)
    collector = Collector(
        EnvSpec("GuessNumber-v0", {"high": 7}),
        TransformersEngine(lm),
        lm.tokenizer,
        Sampling(max_new_tokens=5, end_ids=ends, seed=2),
        Limits(max_turns=4),
    )
    plan = [Episode(seed, seed) for seed in range(episodes)]
    guide = Plan(TransformersEngine(make_lm(1)), PrefixGuidance(turns=1), progress=0.0)
    return collector.collect(plan, guide if guided else None)


@pytest.fixture(scope="module")
def guided(make_lm, ends) -> list[Trajectory]:
    """Conversations of different lengths whose first turn is the teacher's."""
    played = play(make_lm, ends, 6, guided=True)
    assert len({len(t.tokens) for t in played}) > 3
    return played


@pytest.fixture
def student(make_lm) -> LanguageModel:
    return make_lm(0, dtype=torch.float64)


@pytest.fixture(scope="module")
def teacher(make_lm) -> LocalTeacher:
    return LocalTeacher(make_lm(1, dtype=torch.float64), top_k=8, keep_hidden=True)


def scored(trajectories: list[Trajectory], teacher: LocalTeacher) -> list[Trajectory]:
    scores = teacher.score(trajectories)
    return [dataclasses.replace(t, scores=s) for t, s in zip(trajectories, scores, strict=True)]


def gradient(
    lm: LanguageModel,
    trajectories: list[Trajectory],
    credit: Credit,
    method: CreditConfig,
    teacher: LocalTeacher,
    config: LearnerConfig = UNCLIPPED,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What a step would have been made of, and its figures; the model is left as it was."""
    learner = Learner(lm, config)
    found: dict[str, torch.Tensor] = {}

    def capture(*args: object, **kwargs: object) -> None:
        found.update({name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None})

    learner.optimizer.step = capture
    figures = learner.update(trajectories, credit, method, teacher, progress=0.0)
    return found, figures


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-7) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=1e-5, atol=tolerance) for n in a)


def naive_gradient(
    lm: LanguageModel, trajectories: list[Trajectory], credit: Credit, method: CreditConfig, teacher: LocalTeacher
) -> dict[str, torch.Tensor]:
    """Whole sequences, one at a time, the losses written out token by token."""
    N = sum(int(t.authored("student").sum()) for t in trajectories)
    turns = sum(turn.author == "student" for t in trajectories for turn in t.turns)
    share = getattr(method.normaliser, "share", 0.0)
    guided = sum(int(t.authored("teacher").sum()) for t in trajectories)
    lm.model.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for b, trajectory in enumerate(trajectories):
        ids = torch.from_numpy(trajectory.tokens).long()
        logp = lm.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        with torch.no_grad():
            taught = teacher.lm.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            now, then = logp[t - 1], taught[t - 1]
            length = sum((a[1] - a[0]) for turn in trajectory.turns if (a := turn.action)[0] <= t < a[1])
            scale = (1 - share) / N + (share / (turns * length) if length else 0.0)
            if w := float(credit.policy_weight[b, t]) * scale:
                if method.estimator == SampledEstimator():
                    loss = loss - w * float(credit.score[b, t]) * now[ids[t]]
                else:
                    p, q = now.exp(), then.clamp(min=LOG_PROB_FLOOR)
                    listed = now.topk(getattr(method.estimator, "top_k", len(now))).indices
                    loss = loss + w * (p[listed] * (now[listed] - q[listed])).sum()
                    if len(listed) < len(now):
                        rest_s, rest_t = 1 - p[listed].sum(), 1 - then.exp()[listed].sum()
                        loss = loss + w * rest_s * (rest_s.log() - rest_t.log())
            if w := float(credit.forward_kl_weight[b, t]) * scale:
                top = then.topk(method.forward_kl.top_k)
                lt, ls = top.values, now[top.indices]
                if method.forward_kl.renormalise:
                    lt, ls = lt.log_softmax(-1), ls.log_softmax(-1)
                value = (lt.exp() * (lt - ls)).sum()
                if method.forward_kl.gradient == "score":
                    value = value.detach() * now[ids[t]]
                loss = loss + w * value
            if w := float(credit.imitation_weight[b, t]):
                loss = loss - w * now[ids[t]] / guided
    loss.backward()
    found = {name: p.grad.clone() for name, p in lm.model.named_parameters()}
    lm.model.zero_grad()
    return found


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_the_written_out_losses(student, teacher, guided, name):
    method, batch = METHODS[name], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method, step=1)
    found, figures = gradient(student, batch, credit, method, teacher)
    assert same(found, naive_gradient(student, batch, credit, method, teacher), 1e-6)
    norm = torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()
    assert figures["grad_norm"] == pytest.approx(float(norm), rel=1e-6)
    if name == "coarse":
        assert all(bool((w > 0).any()) for w in (credit.policy_weight, credit.forward_kl_weight))
    if name == "tropd":  # all three streams took part
        weights = (credit.policy_weight, credit.forward_kl_weight, credit.imitation_weight)
        assert all(bool((w > 0).any()) for w in weights)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("token_budget", [1, 150, 400])
def test_micro_batches_and_padding_do_not_matter(student, teacher, guided, name, token_budget):
    method, batch = METHODS[name], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    whole, figures = gradient(student, batch, credit, method, teacher)
    config = UNCLIPPED.model_copy(update={"token_budget": token_budget})
    split, split_figures = gradient(student, batch, credit, method, teacher, config)
    assert same(whole, split)
    assert split_figures == pytest.approx(figures, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_trajectories_does_not_matter(student, teacher, guided, name):
    method = METHODS[name]
    found = []
    for order in (range(6), [3, 5, 0, 1, 4, 2]):
        batch = scored([guided[i] for i in order], teacher)
        found.append(gradient(student, batch, assign_credit(pad_scored(batch), method), method, teacher)[0])
    assert same(*found)


@pytest.mark.parametrize("name", METHODS)
def test_positions_taken_in_chunks_give_the_same_step(student, teacher, guided, name, monkeypatch):
    method, batch = METHODS[name], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    whole, figures = gradient(student, batch, credit, method, teacher)
    monkeypatch.setattr(learner_module, "position_chunk", lambda vocab_size: 4)
    chunked, chunked_figures = gradient(student, batch, credit, method, teacher)
    assert same(whole, chunked)
    assert chunked_figures == pytest.approx(figures, rel=1e-5)


def test_what_comes_after_the_last_weight_is_not_encoded(student, teacher, guided):
    method, batch = METHODS["opd"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    weight = credit.policy_weight.clone()
    for b, trajectory in enumerate(batch):
        weight[b, trajectory.turns[-1].action[0] :] = 0
    credit = dataclasses.replace(credit, policy_weight=weight)
    found, figures = gradient(student, batch, credit, method, teacher)
    assert same(found, naive_gradient(student, batch, credit, method, teacher), 1e-6)
    assert figures["updated_tokens"] == sum(int(row.nonzero().max()) for row in weight)
    assert figures["updated_tokens"] < sum(t.turns[-1].action[0] for t in batch)


def without_weights(credit: Credit) -> Credit:
    names = ("policy_weight", "forward_kl_weight", "imitation_weight")
    return dataclasses.replace(credit, **{name: torch.zeros_like(getattr(credit, name)) for name in names})


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_weights_changes_nothing(student, teacher, guided, name):
    method, batch = METHODS[name], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    learner = Learner(student, LearnerConfig(lr=1e-2))
    learner.update(batch, credit, method, teacher, progress=0.0)  # Adam has momentum now
    before = copy.deepcopy(student.model.state_dict())
    figures = learner.update(batch, without_weights(credit), method, teacher, progress=0.0)
    assert all(torch.isfinite(torch.tensor(list(figures.values()))))
    assert figures["loss"] == figures["grad_norm"] == figures["updated_tokens"] == 0
    assert all(torch.equal(before[n], p) for n, p in student.model.state_dict().items())
    assert learner.steps == 2


def test_an_empty_batch_changes_nothing(student, teacher):
    learner = Learner(student, LearnerConfig(lr=1e-2))
    before = copy.deepcopy(student.model.state_dict())
    figures = learner.update([], assign_credit(pad_scored([]), METHODS["opd"]), METHODS["opd"], teacher, progress=0.0)
    assert figures["loss"] == 0
    assert all(torch.equal(before[n], p) for n, p in student.model.state_dict().items())


def sampled_from(lm: LanguageModel, stream: int, n: int = 250) -> list[Trajectory]:
    """Bare conversations of one action: six tokens after one of five prompts."""
    prompts = [[1 + i % 5, 2] for i in range(n)]
    requests = [Request(i, prompts[i], stream * n + i) for i in range(n)]
    answers = TransformersEngine(lm).generate(requests, Sampling(max_new_tokens=6, end_ids=frozenset({0})))
    return [
        Trajectory(
            id=i,
            env_id="",
            env_kwargs={},
            seed=i,
            tokens=np.array([*prompt, *answer.tokens], dtype=np.int32),
            logprobs=np.array([np.nan, np.nan, *answer.logprobs], dtype=np.float32),
            turns=[Turn((0, 2), (2, 2 + len(answer.tokens)), "student", answer.stop, "", "")],
            outcome=Outcome.TERMINATED,
            success=True,
            reward=0.0,
        )
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


@torch.no_grad()
def divergence(student: LanguageModel, teacher: LanguageModel, trajectories: list[Trajectory]) -> float:
    """Mean exact KL(S || T), nats, over the student's action tokens."""
    total, count = 0.0, 0
    for trajectory in trajectories:
        ids = torch.from_numpy(trajectory.tokens).long()[None]
        s, t = (lm.model(input_ids=ids).logits[0, :-1].log_softmax(-1) for lm in (student, teacher))
        own = torch.from_numpy(trajectory.authored("student")[1:])
        total += float((s.exp() * (s - t)).sum(-1)[own].sum())
        count += int(own.sum())
    return total / count


@pytest.mark.parametrize("estimator", [SampledEstimator(), FullEstimator(), TopKEstimator(top_k=3)], ids=repr)
def test_updates_bring_the_student_nearer_to_the_teacher(make_lm, estimator):
    method = CreditConfig(estimator=estimator)
    student, taught = make_lm(0, vocab_size=8), LocalTeacher(make_lm(1, vocab_size=8), keep_hidden=True)
    learner = Learner(student, LearnerConfig(lr=5e-3))
    probe = sampled_from(student, 99, n=20)
    before = divergence(student, taught.lm, probe)
    for step in range(8):
        batch = scored(sampled_from(student, step), taught)
        learner.update(batch, assign_credit(pad_scored(batch), method), method, taught, progress=0.0)
    assert divergence(student, taught.lm, probe) < 0.7 * before


@pytest.mark.parametrize("clip_ratio", [1e-9, 100.0])
def test_a_later_epoch_does_not_push_a_token_that_has_moved_far_enough(make_lm, teacher, guided, clip_ratio):
    method, batch = METHODS["opd"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    one = torch.zeros_like(credit.policy_weight)
    one[0, int(np.flatnonzero(batch[0].authored("student"))[2])] = 1  # a single token surely moves as it is pushed
    credit = dataclasses.replace(credit, policy_weight=one)
    config = LearnerConfig(lr=1e-4, epochs_per_batch=2, clip_ratio=clip_ratio)
    learner = Learner(make_lm(0, dtype=torch.float64), config)
    single = Learner(make_lm(0, dtype=torch.float64), config.model_copy(update={"epochs_per_batch": 1}))
    first = single.update(batch, credit, method, teacher, progress=0.0)["grad_norm"]
    second = (
        2 * learner.update(batch, credit, method, teacher, progress=0.0)["grad_norm"] - first
    )  # the mean of both is reported
    assert learner.steps == 2 and first > 0
    assert (second > 1e-6 * first) == (clip_ratio == 100.0)


def test_the_first_epoch_takes_the_ratio_as_one(make_lm, teacher, guided):
    """Even if the recorded log-probabilities were off, fresh data is on-policy."""
    method, batch = METHODS["opd"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    shifted = [dataclasses.replace(t, logprobs=t.logprobs - 3) for t in batch]
    a, _ = gradient(make_lm(0, dtype=torch.float64), batch, credit, method, teacher)
    b, _ = gradient(make_lm(0, dtype=torch.float64), shifted, credit, method, teacher)
    assert same(a, b)


# Mini-batches


def chosen_by_step(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Filled by each later update: which trajectories every optimiser step learned from."""
    seen: list[list[int]] = []
    take = learner._step

    def step(trajectories, credit, method, teacher, chosen, **settings):
        seen.append(list(chosen))
        return take(trajectories, credit, method, teacher, chosen, **settings)

    monkeypatch.setattr(learner, "_step", step)
    return seen


@pytest.mark.parametrize(("minibatches", "epochs"), [(1, 1), (2, 1), (4, 2), (6, 1), (8, 1)])
def test_every_trajectory_is_used_once_in_a_pass(make_lm, teacher, guided, monkeypatch, minibatches, epochs):
    method, batch = METHODS["opd"], scored(guided, teacher)
    learner = Learner(make_lm(0), LearnerConfig(lr=1e-3, minibatches=minibatches, epochs_per_batch=epochs))
    seen = chosen_by_step(learner, monkeypatch)
    learner.update(batch, assign_credit(pad_scored(batch), method), method, teacher, progress=0.0)
    assert len(seen) == learner.steps == minibatches * epochs
    for epoch in range(epochs):
        steps = seen[epoch * minibatches : (epoch + 1) * minibatches]
        assert sorted(b for step in steps for b in step) == list(range(6))
        assert max(map(len, steps)) - min(map(len, steps)) <= 1


@pytest.mark.parametrize("name", METHODS)
def test_a_mini_batch_is_a_batch_of_its_own(make_lm, teacher, guided, name, monkeypatch):
    """Learning from mini-batches is learning from each alone, but for the ratio, which is 1 before the first step."""
    method, batch = METHODS[name], scored(guided, teacher)
    together, apart = make_lm(0, dtype=torch.float64), make_lm(0, dtype=torch.float64)
    learner = Learner(together, LearnerConfig(lr=1e-3, minibatches=2, clip_ratio=1e9))
    seen = chosen_by_step(learner, monkeypatch)
    figures = learner.update(batch, assign_credit(pad_scored(batch), method), method, teacher, progress=0.0)
    single = Learner(apart, LearnerConfig(lr=1e-3, clip_ratio=1e9))
    credit, steps = assign_credit(pad_scored(batch), method), []
    for number, chosen in enumerate(seen):
        part = [batch[b] for b in chosen]
        tensors = {key: value[chosen] for key, value in vars(credit).items() if isinstance(value, torch.Tensor)}
        rows = dataclasses.replace(credit, **tensors)
        steps.append(single._step(part, rows, method, teacher, range(len(part)), first=number == 0, progress=0.0))
    for a, b in zip(together.model.parameters(), apart.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)
    for key in ("loss", "grad_norm", "lr", "reverse_kl"):
        assert figures[key] == pytest.approx(sum(step[key] for step in steps) / 2, rel=1e-6)
    assert figures["updated_tokens"] == sum(step["updated_tokens"] for step in steps)


def test_gradients_are_clipped_to_their_norm(student, teacher, guided):
    method, batch = METHODS["opd"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    found, figures = gradient(student, batch, credit, method, teacher, LearnerConfig(lr=1e-3, grad_clip=1e-3))
    norm = torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()
    assert float(norm) == pytest.approx(1e-3, rel=1e-4)
    assert figures["grad_norm"] > 1e-3  # reported before clipping


def test_a_gradient_that_is_not_finite_stops_the_run(student, teacher, guided):
    method, batch = METHODS["opd"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    credit = dataclasses.replace(credit, score=torch.full_like(credit.score, torch.inf))
    with pytest.raises(RunError, match="optimiser step 0"):
        gradient(student, batch, credit, method, teacher)


def test_a_restored_learner_takes_the_same_next_step(make_lm, teacher, guided):
    method, batch = METHODS["exact"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    config = LearnerConfig(lr=1e-2, warmup_steps=2, schedule="cosine", weight_decay=0.1)
    first = make_lm(0)
    learner = Learner(first, config)
    for _ in range(3):
        learner.update(batch, credit, method, teacher, progress=0.0)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    second = make_lm(5)
    second.model.load_state_dict(first.model.state_dict())
    restored = Learner(second, config)
    restored.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for _ in range(2):
        assert learner.update(batch, credit, method, teacher, progress=0.0) == restored.update(
            batch, credit, method, teacher, progress=0.0
        )
    assert restored.steps == 5
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_schedules():
    def factors(**settings) -> list[float]:
        config = LearnerConfig(lr=1.0, **settings)
        return [schedule_factor(config, step, step / 10) for step in range(11)]

    assert factors() == [1.0] * 11
    assert factors(warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(warmup_steps=2, schedule="linear") == pytest.approx(
        [0.5, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    )
    cosine = factors(schedule="cosine")
    assert cosine[0] == 1.0 and cosine[5] == pytest.approx(0.5) and cosine[10] == pytest.approx(0.0)
    assert cosine == sorted(cosine, reverse=True)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_is_a_share(progress):
    with pytest.raises(ValueError, match="progress: found"):
        schedule_factor(LearnerConfig(lr=1.0), 0, progress)


def test_the_learning_rate_that_was_used_is_reported(student, teacher, guided):
    method, batch = METHODS["opd"], scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    config = LearnerConfig(lr=0.02, warmup_steps=4, minibatches=2, schedule="linear")
    learner = Learner(student, config)
    used: list[float] = []
    take = learner.optimizer.step
    learner.optimizer.step = lambda: (used.append(learner.optimizer.param_groups[0]["lr"]), take())
    reported = [learner.update(batch, credit, method, teacher, progress=done / 4)["lr"] for done in range(4)]
    assert used == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.01, 0.01, 0.005, 0.005])  # the second batch warms up too
    assert reported == pytest.approx([0.0075, 0.0175, 0.01, 0.005])


# Normalisers


def repeated(trajectories: list[Trajectory]) -> list[Trajectory]:
    return [*trajectories, *(dataclasses.replace(t, id=t.id + 100) for t in trajectories)]


NORMALISED = {
    **METHODS,
    "kept": CreditConfig(rule=OccupancyRule(budget=20.0), normaliser=KeptTokensNormaliser()),
    "turns": CreditConfig(normaliser=TurnMeanNormaliser(share=1.0)),
}
del NORMALISED["tropd"]  # its gate draws anew for every trajectory


@pytest.mark.parametrize("name", NORMALISED)
def test_repeating_every_trajectory_changes_neither_loss_nor_gradient(student, teacher, guided, name):
    method, batch = NORMALISED[name], scored(guided, teacher)
    once, figures = gradient(student, batch, assign_credit(pad_scored(batch), method), method, teacher)
    twice = repeated(batch)
    again, doubled = gradient(student, twice, assign_credit(pad_scored(twice), method), method, teacher)
    assert same(once, again)
    for key in ("loss", "grad_norm", "reverse_kl", "forward_kl", "imitation_nll"):
        assert doubled[key] == pytest.approx(figures[key], rel=1e-6), key


def test_a_share_of_zero_is_the_mean_over_tokens_to_the_bit(student, teacher, guided):
    batch = scored(guided, teacher)
    found = []
    for method in (CreditConfig(), CreditConfig(normaliser=TurnMeanNormaliser(share=0.0))):
        found.append(gradient(student, batch, assign_credit(pad_scored(batch), method), method, teacher)[0])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_mean_over_turns_gives_every_turn_the_same_say(make_lm, teacher, guided):
    """Scores of one in the tokens of a single turn: the loss is the mean of its `-log pi_S`, over all turns."""
    lm, method = make_lm(0, dtype=torch.float64), CreditConfig(normaliser=TurnMeanNormaliser(share=1.0))
    batch = scored(guided, teacher)
    credit = assign_credit(pad_scored(batch), method)
    turns = sum(turn.author == "student" for t in batch for turn in t.turns)
    for b, k in ((0, 1), (3, 2)):
        start, end = batch[b].turns[k].action
        only = torch.zeros_like(credit.policy_weight)
        only[b, start:end] = 1
        one = dataclasses.replace(credit, policy_weight=only, score=torch.ones_like(credit.score))
        _, figures = gradient(lm, batch, one, method, teacher)
        assert figures["loss"] == pytest.approx(-batch[b].logprobs[start:end].mean() / turns, rel=1e-4)


def test_kept_tokens_alone_are_counted(student, teacher, guided):
    """Masking half of the turns leaves the size of the step, where counting all action tokens would shrink it."""
    batch = scored(guided, teacher)
    losses = {}
    for normaliser in (KeptTokensNormaliser(), CreditConfig().normaliser):
        method = CreditConfig(rule=OccupancyRule(budget=20.0), normaliser=normaliser)
        credit = assign_credit(pad_scored(batch), method)
        losses[normaliser.kind] = gradient(student, batch, credit, method, teacher)[1]["loss"]
    kept = int((credit.policy_weight > 0).sum())
    action = sum(int(t.authored("student").sum()) for t in batch)
    assert 0 < kept < action
    assert losses["kept_tokens"] == pytest.approx(losses["action_tokens"] * action / kept)


def test_more_stored_top_tokens_than_the_method_reads_change_nothing(student, teacher, guided):
    """A batch scored once may be learned from with several methods."""
    method = CreditConfig(outlier=EntropyOutliers(top_k=3, tail=True))
    batch = scored(guided, teacher)  # with 8
    credit = assign_credit(pad_scored(batch), CreditConfig())
    credit = dataclasses.replace(credit, forward_kl_weight=credit.policy_weight)
    fewer = [
        dataclasses.replace(
            t, scores=dataclasses.replace(t.scores, top_ids=t.scores.top_ids[:, :3], top_lt=t.scores.top_lt[:, :3])
        )
        for t in batch
    ]
    a, _ = gradient(student, batch, credit, method, teacher)
    b, _ = gradient(student, fewer, credit, method, teacher)
    assert same(a, b)
