"""Each stream against a naive loop written from its definition, and against the gradient it claims to produce."""

import dataclasses
import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from trpd_agents.credit import BernoulliGate, CreditConfig, ForwardKLOutliers, OffGate, SoftGate, assign_credit
from trpd_agents.learner.streams import LOG_PROB_FLOOR, TAIL_FLOOR, stream_losses
from trpd_agents.trajectory import ScoredBatch

INF, NAN = math.inf, math.nan
V, TOP = 7, 3


@dataclasses.dataclass
class Positions:
    logits: torch.Tensor
    token: torch.Tensor
    ls_old: torch.Tensor
    policy_weight: torch.Tensor
    score: torch.Tensor
    forward_kl_weight: torch.Tensor
    imitation_weight: torch.Tensor
    top_ids: torch.Tensor
    top_lt: torch.Tensor
    teacher_logprobs: torch.Tensor

    def __getitem__(self, rows) -> "Positions":
        return Positions(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def loss(self, **options):
        fixed = {"estimator": "sampled", "normaliser": 11.0, "guided_normaliser": 5.0}
        return stream_losses(**vars(self), **(fixed | options))

    def loss_and_gradient(self, **options):
        leaf = self.logits.detach().clone().requires_grad_()
        loss, sums = dataclasses.replace(self, logits=leaf).loss(**options)
        loss.backward()
        return loss.detach(), leaf.grad, sums


def positions(n=24, dtype=torch.float64, seed=0) -> Positions:
    """Random positions of which a third each is weighted, unweighted and guided; unused entries hold garbage."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=dtype)

    logits = 2 * torch.randn(n, V, generator=g, dtype=dtype)
    teacher = (2 * torch.randn(n, V, generator=g, dtype=dtype)).log_softmax(-1)
    token = torch.randint(V, (n,), generator=g)
    kind = torch.arange(n) % 3
    ls = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
    ls_old = ls + 0.8 * (rand(n) - 0.5)
    top_lt, top_ids = teacher.topk(TOP, -1)
    p = Positions(
        logits,
        token,
        ls_old,
        torch.where(kind == 0, rand(n), 0),
        4 * (rand(n) - 0.6),
        torch.where((kind == 0) & (torch.arange(n) % 2 == 0), rand(n), 0),
        torch.where(kind == 2, rand(n), 0),
        top_ids,
        top_lt,
        teacher,
    )
    p.ls_old[kind != 0] = NAN
    p.score[kind != 0] = INF
    p.token[kind == 1] = -100
    p.top_lt[kind != 0], p.top_ids[kind != 0] = NAN, -1
    p.teacher_logprobs[kind != 0] = NAN
    return p


def naive_loss(p: Positions, estimator, tail=False, clip_ratio=None, N=11.0, N_g=5.0) -> float:
    total = 0.0
    for i in range(len(p.token)):
        z = [float(x) for x in p.logits[i]]
        log_z = math.log(sum(math.exp(x) for x in z))
        ls = [x - log_z for x in z]
        if (w := float(p.policy_weight[i])) != 0:
            if estimator == "full":
                lt = [max(float(x), LOG_PROB_FLOOR) for x in p.teacher_logprobs[i]]
                total += w * sum(math.exp(a) * (a - b) for a, b in zip(ls, lt, strict=True)) / N
            else:
                now, score = ls[int(p.token[i])], float(p.score[i])
                ratio = 1.0
                if clip_ratio is not None:
                    ratio = math.exp(now - float(p.ls_old[i]))
                    objective = ratio * score
                    clipped = min(max(ratio, 1 - clip_ratio), 1 + clip_ratio) * score
                    if clipped < objective:  # PPO's minimum is the constant one: no gradient
                        ratio = 0.0
                total += -w * ratio * score * now / N
        if (w := float(p.forward_kl_weight[i])) != 0:
            kl, mass_t, mass_s = 0.0, 0.0, 0.0
            for v, lt in zip(p.top_ids[i].tolist(), p.top_lt[i].tolist(), strict=True):
                kl += math.exp(lt) * (lt - ls[v])
                mass_t, mass_s = mass_t + math.exp(lt), mass_s + math.exp(ls[v])
            if tail:
                kl += (1 - mass_t) * (math.log(1 - mass_t) - math.log(1 - mass_s))
            total += w * kl / N
        if (w := float(p.imitation_weight[i])) != 0:
            total += -w * ls[int(p.token[i])] / N_g
    return total


CASES = [
    {"estimator": "sampled"},
    {"estimator": "sampled", "clip_ratio": 0.2},
    {"estimator": "sampled", "tail": True},
    {"estimator": "full"},
    {"estimator": "full", "tail": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_loss_is_its_definition(options):
    p = positions()
    loss, sums = p.loss(**options)
    assert loss.item() == pytest.approx(naive_loss(p, **options), rel=1e-12)
    assert sums["loss"] == loss and not sums["loss"].requires_grad


@pytest.mark.parametrize("options", CASES, ids=str)
def test_gradient_is_that_of_finite_differences(options):
    """With the ratio held at its value: PPO's ratio times score is the coefficient of the gradient, not part of it."""
    p = positions(n=9)
    clip = options.get("clip_ratio")
    if clip is not None:
        now = p.logits.log_softmax(-1).gather(1, p.token.clamp(min=0)[:, None])[:, 0]
        ratio = (now - p.ls_old).exp()
        stopped = torch.where(p.score >= 0, ratio > 1 + clip, ratio < 1 - clip)
        assert stopped.any()
        fixed = dataclasses.replace(p, score=torch.where(stopped, 0.0, ratio * p.score))
        reference = {**options, "clip_ratio": None}
    else:
        fixed, reference = p, options
    _, gradient, _ = p.loss_and_gradient(**options)
    h = 1e-6
    for i in range(len(p.token)):
        for v in range(V):
            up, down = p.logits.clone(), p.logits.clone()
            up[i, v] += h
            down[i, v] -= h
            slope = (
                naive_loss(dataclasses.replace(fixed, logits=up), **reference)
                - naive_loss(dataclasses.replace(fixed, logits=down), **reference)
            ) / (2 * h)
            assert gradient[i, v].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_any_split_into_micro_batches_adds_up(options):
    p = positions()
    loss, gradient, sums = p.loss_and_gradient(**options)
    order = torch.randperm(len(p.token), generator=torch.Generator().manual_seed(1))
    parts = [(rows, p[rows].loss_and_gradient(**options)) for rows in order.split([1, 5, 0, 11, 7])]
    torch.testing.assert_close(sum(part[0] for _, part in parts), loss)
    for rows, (_, part, _) in parts:
        torch.testing.assert_close(part, gradient[rows])
    for name, value in sums.items():
        torch.testing.assert_close(sum(part[2][name] for _, part in parts), value)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_repeating_everything_changes_neither_loss_nor_gradient(options):
    p = positions()
    loss, gradient, _ = p.loss_and_gradient(**options)
    twice = p[torch.arange(len(p.token)).repeat(2)]
    again, doubled, _ = twice.loss_and_gradient(**options, normaliser=22.0, guided_normaliser=10.0)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(doubled.chunk(2)[0] + doubled.chunk(2)[1], gradient)


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("n", [0, 6])
def test_all_masked_is_a_finite_zero_attached_to_the_graph(options, n):
    p = positions(n=6)[slice(0, n)]
    for name in ("policy_weight", "forward_kl_weight", "imitation_weight"):
        getattr(p, name).zero_()
    for name in ("score", "ls_old", "top_lt", "teacher_logprobs"):
        getattr(p, name).fill_(NAN)
    loss, gradient, sums = p.loss_and_gradient(**options, normaliser=0.0, guided_normaliser=0.0)
    assert loss == 0 and not gradient.any()
    assert all(value == 0 for value in sums.values())


@pytest.mark.parametrize("options", CASES, ids=str)
def test_garbage_at_unweighted_positions_changes_nothing(options):
    p = positions()
    loss, gradient, _ = p.loss_and_gradient(**options)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()  # positions() comes with garbage
    assert not gradient[1::3].any()


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_half_precision_logits_are_widened(estimator):
    p = positions(dtype=torch.float32)
    half = dataclasses.replace(p, logits=p.logits.bfloat16())
    wide = dataclasses.replace(p, logits=half.logits.float())
    loss, gradient, _ = half.loss_and_gradient(estimator=estimator)
    expected, reference, _ = wide.loss_and_gradient(estimator=estimator)
    assert loss.dtype == torch.float32 and loss == expected
    torch.testing.assert_close(gradient.float(), reference, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_under_checkpointing_the_gradient_is_the_same(options):
    p = positions()
    _, gradient, _ = p.loss_and_gradient(**options)
    leaf = p.logits.clone().requires_grad_()
    loss = checkpoint(lambda z: dataclasses.replace(p, logits=z).loss(**options)[0], leaf, use_reentrant=False)
    loss.backward()
    torch.testing.assert_close(leaf.grad, gradient)


def test_a_teacher_that_rules_tokens_out_gives_finite_losses():
    p = positions()
    p.teacher_logprobs[0, :3] = -INF
    p.top_lt[0, 1:] = -INF
    p.forward_kl_weight[0] = 1.0
    for options in ({"estimator": "full", "tail": True}, {"estimator": "sampled"}):
        loss, gradient, _ = p.loss_and_gradient(**options)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    floored = dataclasses.replace(p, teacher_logprobs=p.teacher_logprobs.clone())
    floored.teacher_logprobs[0, :3] = torch.tensor([LOG_PROB_FLOOR, LOG_PROB_FLOOR - 5, LOG_PROB_FLOOR])
    assert floored.loss(estimator="full")[0] == p.loss(estimator="full")[0]
    # with one listed token of probability q the sum is q log q - q log pi_S
    single = p[slice(0, 1)]
    single.policy_weight.zero_()
    q = single.top_lt[0, 0]
    ls = single.logits.log_softmax(-1)[0, single.top_ids[0, 0]]
    torch.testing.assert_close(single.loss(normaliser=1.0)[0], q.exp() * (q - ls))


def test_a_student_that_rules_tokens_out_gives_finite_losses():
    p = positions()
    p.logits[:, 2] = -INF
    p.token[p.token == 2] = 1
    p.top_ids[p.top_ids == 2] = 0
    for options in CASES:
        loss, gradient, _ = p.loss_and_gradient(**options)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_the_tail_of_a_student_sure_of_the_top_tokens_is_floored():
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    p.logits.fill_(-80.0).scatter_(1, p.top_ids, 5.0)
    p.forward_kl_weight.fill_(1.0)
    loss, gradient, _ = p.loss_and_gradient(tail=True, normaliser=1.0)
    rest = 1 - p.top_lt.exp().sum()
    truncated = p.loss(tail=False, normaliser=1.0)[0]
    torch.testing.assert_close(loss, truncated + rest * (rest.log() - math.log(TAIL_FLOOR)))
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("tail", [False, True])
def test_ruled_out_top_tokens_are_as_good_as_unlisted(tail):
    p = positions()
    used = p.forward_kl_weight != 0
    p.top_lt[used, -1] = -INF
    fewer = dataclasses.replace(p, top_ids=p.top_ids[:, :-1], top_lt=p.top_lt[:, :-1])
    loss, gradient, _ = p.loss_and_gradient(tail=tail)
    expected, reference, _ = fewer.loss_and_gradient(tail=tail)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, reference)


def test_tail_makes_the_truncated_sum_a_divergence():
    """Without it the sum is negative where the student is surer of the top tokens than the teacher."""
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    p.logits = p.teacher_logprobs.scatter_add(1, p.top_ids, torch.ones(1, TOP, dtype=torch.float64))
    assert p.loss(tail=False)[0] < 0 < p.loss(tail=True)[0]
    p.logits = p.teacher_logprobs
    torch.testing.assert_close(p.loss(tail=True)[0], torch.zeros((), dtype=torch.float64))


def test_forward_kl_gradient_on_the_logits():
    """`top-k mass * pi_S - pi_T on the top-k`, an L1 norm of at most 2."""
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    p.forward_kl_weight.fill_(1.0)
    _, gradient, _ = p.loss_and_gradient(normaliser=1.0)
    teacher = torch.zeros_like(p.logits).scatter(1, p.top_ids, p.top_lt.exp())
    torch.testing.assert_close(gradient, teacher.sum() * p.logits.softmax(-1) - teacher)
    assert gradient.abs().sum() <= 2


def test_statistics_are_what_they_are_called():
    p = positions()
    _, sums = p.loss(estimator="sampled", clip_ratio=0.2)
    used = p.policy_weight != 0
    torch.testing.assert_close(sums["policy_weight"], p.policy_weight.sum())
    torch.testing.assert_close(sums["reverse_kl"], -(p.policy_weight * p.score)[used].sum())
    assert 0 < sums["clipped"] < used.sum()
    assert sums["imitated"] == (p.imitation_weight != 0).sum()
    _, sums = p.loss(estimator="full")
    ls = p.logits.log_softmax(-1)
    kl = (ls.exp() * (ls - p.teacher_logprobs)).sum(-1)
    torch.testing.assert_close(sums["reverse_kl"], (p.policy_weight * kl)[used].sum())


def test_missing_tensors_are_named():
    p = positions()
    with pytest.raises(ValueError, match="needs teacher_logprobs"):
        dataclasses.replace(p, teacher_logprobs=None).loss(estimator="full")
    with pytest.raises(ValueError, match="share one vocabulary"):
        dataclasses.replace(p, teacher_logprobs=p.teacher_logprobs[:, :-1]).loss(estimator="full")
    with pytest.raises(ValueError, match="top_ids or top_lt is None"):
        dataclasses.replace(p, top_lt=None).loss()
    p.forward_kl_weight.zero_()
    dataclasses.replace(p, top_ids=None, top_lt=None, teacher_logprobs=None).loss()


# ---- exact enumeration: credit and streams together ----------------------------------------------


def expected_gradient(config: CreditConfig, logits: torch.Tensor, teacher: torch.Tensor, copies: int) -> torch.Tensor:
    """Expectation over the student's token of the loss gradient `[V]`: every token once per copy, weighed by pi_S.

    One trajectory of one token each; the copies differ in their ids, hence in the random numbers of the gate.
    """
    ls = logits.log_softmax(-1)
    token = torch.arange(len(ls)).repeat(copies)
    n = len(token)
    yes = torch.ones(n, 1, dtype=torch.bool)
    top_lt, top_ids = teacher.topk(TOP)
    scored = ScoredBatch(
        action=yes,
        guided=~yes,
        turn=torch.zeros(n, 1, dtype=torch.int64),
        ls=ls[token][:, None],
        lt=teacher[token][:, None],
        ok=yes,
        complete=yes,
        trajectory_id=torch.arange(n),
        teacher_available=yes[:, 0],
        top_ids=top_ids.expand(n, 1, TOP),
        top_lt=top_lt.expand(n, 1, TOP),
    )
    credit = assign_credit(scored, config)
    mass = ls.exp()[token]
    leaf = logits.expand(n, -1).clone().requires_grad_()
    loss, _ = stream_losses(
        leaf,
        token,
        ls[token],
        mass * credit.policy_weight[:, 0],
        credit.score[:, 0],
        mass * credit.forward_kl_weight[:, 0],
        credit.imitation_weight[:, 0],
        estimator=config.estimator,
        normaliser=copies,
        guided_normaliser=0.0,
        top_ids=scored.top_ids[:, 0],
        top_lt=scored.top_lt[:, 0],
        teacher_logprobs=teacher.expand(n, -1),
    )
    loss.backward()
    return leaf.grad.sum(0)


@pytest.fixture(params=range(3))
def policies(request):
    g = torch.Generator().manual_seed(request.param)
    logits = 1.5 * torch.randn(2, V, generator=g, dtype=torch.float64)
    return logits[0], logits[1].log_softmax(-1)


def kl_gradient(logits, teacher):
    leaf = logits.clone().requires_grad_()
    ls = leaf.log_softmax(-1)
    (ls.exp() * (ls - teacher)).sum().backward()
    return leaf.grad


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_vanilla_distillation_descends_the_reverse_kl(policies, estimator):
    gradient = expected_gradient(CreditConfig(OffGate(), estimator=estimator), *policies, copies=1)
    torch.testing.assert_close(gradient, kl_gradient(*policies), rtol=1e-5, atol=1e-6)


def gated_gradient(logits, teacher):
    """`-sum_v min(pi_S, pi_T) log rho * grad log pi_S(v)`."""
    ls = logits.log_softmax(-1)
    scale = torch.minimum(ls, teacher).exp() * (teacher - ls)
    return -(scale - scale.sum() * ls.exp())


def test_soft_gate_has_the_gated_gradient_exactly(policies):
    gradient = expected_gradient(CreditConfig(SoftGate()), *policies, copies=1)
    torch.testing.assert_close(gradient, gated_gradient(*policies), rtol=1e-5, atol=1e-6)


def test_bernoulli_gate_has_the_gated_gradient_on_average(policies):
    gradient = expected_gradient(CreditConfig(BernoulliGate()), *policies, copies=20_000)
    torch.testing.assert_close(gradient, gated_gradient(*policies), rtol=0, atol=0.01)


def test_rejected_tokens_supply_forward_kl_in_proportion_to_the_total_variation(policies):
    """E[1 - M] is the total variation, and the forward KL of a position does not depend on the sampled token."""
    logits, teacher = policies
    both = expected_gradient(CreditConfig(SoftGate(), ForwardKLOutliers(top_k=TOP)), *policies, copies=1)
    gate_only = expected_gradient(CreditConfig(SoftGate()), *policies, copies=1)
    tv = (logits.softmax(-1) - teacher.exp()).abs().sum() / 2
    top = torch.zeros(V, dtype=torch.float64).scatter(0, teacher.topk(TOP).indices, teacher.topk(TOP).values.exp())
    expected = tv * (top.sum() * logits.softmax(-1) - top)
    torch.testing.assert_close(both - gate_only, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_equal_policies_have_no_gradient(policies, estimator):
    logits = policies[0]
    gradient = expected_gradient(CreditConfig(estimator=estimator), logits, logits.log_softmax(-1), copies=1)
    assert gradient.abs().max() < 1e-6


def test_imitation_points_to_the_teacher_and_its_scalar_form_points_away():
    """Guidance as an advantage `ls - lt` on teacher tokens would be trained in reverse: keep it direct."""
    g = torch.Generator().manual_seed(5)
    direct, scalar = [], []
    for _ in range(50):
        logits, other = torch.randn(2, 12, generator=g, dtype=torch.float64)
        student, teacher = logits.softmax(-1), other.softmax(-1)
        leaf = logits.expand(12, -1).clone().requires_grad_()  # every token the teacher could write, weighed by pi_T
        zero = torch.zeros(12, dtype=torch.float64)
        loss, _ = stream_losses(
            leaf,
            torch.arange(12),
            zero,
            zero,
            zero,
            zero,
            teacher,
            estimator="sampled",
            normaliser=0.0,
            guided_normaliser=1.0,
        )
        loss.backward()
        step = -leaf.grad.sum(0)
        torch.testing.assert_close(step, teacher - student)
        advantage = teacher * (student.log() - teacher.log())
        wrong = advantage - advantage.sum() * student
        towards = teacher - student
        direct.append(torch.cosine_similarity(step, towards, dim=0))
        scalar.append(torch.cosine_similarity(wrong, towards, dim=0))
    assert min(direct) > 0.999
    assert sum(scalar) / len(scalar) < -0.8
