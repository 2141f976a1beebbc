"""Each stream against a naive loop written from its definition, and against the gradient it claims to produce.

What credit and streams do together on average is in tests/credit/test_expectations.py.
"""

import dataclasses
import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from trpd_agents.credit.config import (
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    SampledEstimator,
    TopKEstimator,
)
from trpd_agents.learner.divergences import LOG_PROB_FLOOR, TAIL_FLOOR, reverse_kl
from trpd_agents.learner.streams import stream_losses

INF, NAN = math.inf, math.nan
V, TOP, STORED = 7, 3, 4  # one more top token is stored than the method reads

SAMPLED, FULL, TOP_K = SampledEstimator(), FullEstimator(), TopKEstimator(top_k=2)
PLAIN = ForwardKLOutliers(top_k=TOP)
TAIL = ForwardKLOutliers(top_k=TOP, tail=True)
RENORMALISED = EntropyOutliers(top_k=TOP, renormalise=True)
SCORE = ForwardKLOutliers(top_k=TOP, gradient="score")
SCORE_TAIL = ForwardKLOutliers(top_k=TOP, gradient="score", tail=True)
SCORE_RENORMALISED = ForwardKLOutliers(top_k=TOP, gradient="score", renormalise=True)


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
        fixed = {"estimator": SAMPLED, "forward": PLAIN, "normaliser": 11.0, "guided_normaliser": 5.0}
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
    top_lt, top_ids = teacher.topk(STORED, -1)
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


def coarsened_kl(ls: list[float], lt: list[float], listed: list[int], floor: float = -INF) -> float:
    """KL(S || T) over the listed tokens and the bucket of all others."""
    rest = [v for v in range(len(ls)) if v not in listed]
    kl = sum(math.exp(ls[v]) * (ls[v] - max(lt[v], floor)) for v in listed)
    if rest:
        others_s, others_t = (math.log(sum(math.exp(x[v]) for v in rest)) for x in (ls, lt))
        kl += math.exp(others_s) * (others_s - max(others_t, floor))
    return kl


def naive_forward_kl(ls: list[float], top: dict[int, float], how: ForwardKLOutliers) -> float:
    mass_t, mass_s = (sum(math.exp(x) for x in values) for values in (top.values(), [ls[v] for v in top]))
    if how.renormalise:
        return sum(math.exp(lt) / mass_t * (lt - math.log(mass_t) - ls[v] + math.log(mass_s)) for v, lt in top.items())
    kl = sum(math.exp(lt) * (lt - ls[v]) for v, lt in top.items())
    return kl + (1 - mass_t) * (math.log(1 - mass_t) - math.log(1 - mass_s)) if how.tail else kl


def naive_push(score: float, now: float, old: float, clip_ratio: float | None) -> float:
    """Loss of a token pushed by a score: `-score * log pi_S`, or PPO's, whose minimum can be the constant one."""
    ratio = 1.0
    if clip_ratio is not None:
        ratio = math.exp(now - old)
        if min(max(ratio, 1 - clip_ratio), 1 + clip_ratio) * score < ratio * score:
            ratio = 0.0
    return -ratio * score * now


def naive_loss(p: Positions, estimator=SAMPLED, forward=PLAIN, clip_ratio=None, N=11.0, N_g=5.0) -> float:
    total = 0.0
    for i in range(len(p.token)):
        z = [float(x) for x in p.logits[i]]
        log_z = math.log(sum(math.exp(x) for x in z))
        ls = [x - log_z for x in z]
        lt = [float(x) for x in p.teacher_logprobs[i]]
        if (w := float(p.policy_weight[i])) != 0:
            if estimator == SAMPLED:
                total += w * naive_push(float(p.score[i]), ls[int(p.token[i])], float(p.ls_old[i]), clip_ratio) / N
            else:
                listed = sorted(range(V), key=lambda v: -ls[v])[: getattr(estimator, "top_k", V)]
                total += w * coarsened_kl(ls, lt, listed, LOG_PROB_FLOOR) / N
        if (w := float(p.forward_kl_weight[i])) != 0:
            top = dict(zip(p.top_ids[i].tolist(), p.top_lt[i].tolist(), strict=True))
            value = naive_forward_kl(ls, {v: top[v] for v in list(top)[: forward.top_k]}, forward)
            if forward.gradient == "score":
                value = naive_push(-value, ls[int(p.token[i])], float(p.ls_old[i]), clip_ratio)
            total += w * value / N
        if (w := float(p.imitation_weight[i])) != 0:
            total += -w * ls[int(p.token[i])] / N_g
    return total


CASES = [
    {"estimator": SAMPLED},
    {"estimator": SAMPLED, "clip_ratio": 0.2},
    {"estimator": SAMPLED, "forward": TAIL},
    {"estimator": SAMPLED, "forward": RENORMALISED},
    {"estimator": SAMPLED, "forward": SCORE},
    {"estimator": TOP_K, "forward": SCORE_TAIL, "clip_ratio": 0.2},
    {"estimator": FULL, "forward": SCORE_RENORMALISED},
    {"estimator": FULL},
    {"estimator": FULL, "forward": TAIL},
    {"estimator": TOP_K},
    {"estimator": TOP_K, "forward": RENORMALISED},
]


def label(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    forward = value.get("forward", PLAIN)
    names = [value["estimator"].kind, forward.gradient]
    names += [name for name in ("tail", "renormalise") if getattr(forward, name)]
    return "-".join([*names, *(["clipped"] if "clip_ratio" in value else [])])


@pytest.mark.parametrize("options", CASES, ids=label)
def test_loss_is_its_definition(options):
    p = positions()
    loss, sums = p.loss(**options)
    assert loss.item() == pytest.approx(naive_loss(p, **options), rel=1e-12)
    assert sums["loss"] == loss and not sums["loss"].requires_grad


@pytest.mark.parametrize("options", CASES, ids=label)
def test_gradient_is_that_of_finite_differences(options):
    """With every detached score and ratio held at its value: they are coefficients of the gradient, not part of it."""
    p = positions(n=9)
    fixed, reference = p, dict(options)
    clip, forward = reference.pop("clip_ratio", None), options.get("forward", PLAIN)
    now = p.logits.log_softmax(-1).gather(1, p.token.clamp(min=0)[:, None])[:, 0]

    def coefficient(score: torch.Tensor) -> torch.Tensor:
        if clip is None:
            return score
        ratio = (now - p.ls_old).exp()
        stopped = torch.where(score >= 0, ratio > 1 + clip, ratio < 1 - clip)
        return torch.where(stopped, 0.0, ratio * score)

    if options["estimator"] == SAMPLED:
        fixed = dataclasses.replace(fixed, score=coefficient(p.score))
    if forward.gradient == "score":  # in a stream of its own: what is left is a sampled reverse KL of that score
        ls = p.logits.log_softmax(-1)
        score = torch.zeros_like(p.score)
        for i in p.forward_kl_weight.nonzero()[:, 0].tolist():
            top = dict(zip(p.top_ids[i, :TOP].tolist(), p.top_lt[i, :TOP].tolist(), strict=True))
            score[i] = -naive_forward_kl(ls[i].tolist(), top, forward)
        pushed = dataclasses.replace(
            p,
            policy_weight=p.forward_kl_weight,
            score=coefficient(score),
            forward_kl_weight=torch.zeros_like(p.forward_kl_weight),
            imitation_weight=torch.zeros_like(p.imitation_weight),
        )
        fixed = dataclasses.replace(fixed, forward_kl_weight=pushed.forward_kl_weight)

    def reference_loss(i: int, logits: torch.Tensor) -> float:
        """Of position i alone: no other depends on its logits."""
        row = dataclasses.replace(fixed[slice(i, i + 1)], logits=logits[i : i + 1])
        value = naive_loss(row, **reference)
        if forward.gradient == "score":
            value += naive_loss(dataclasses.replace(pushed[slice(i, i + 1)], logits=logits[i : i + 1]))
        return value

    _, gradient, _ = p.loss_and_gradient(**options)
    h = 1e-6
    for i in range(len(p.token)):
        for v in range(V):
            up, down = p.logits.clone(), p.logits.clone()
            up[i, v] += h
            down[i, v] -= h
            slope = (reference_loss(i, up) - reference_loss(i, down)) / (2 * h)
            assert gradient[i, v].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("options", CASES, ids=label)
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


@pytest.mark.parametrize("options", CASES, ids=label)
def test_repeating_everything_changes_neither_loss_nor_gradient(options):
    p = positions()
    loss, gradient, _ = p.loss_and_gradient(**options)
    twice = p[torch.arange(len(p.token)).repeat(2)]
    again, doubled, _ = twice.loss_and_gradient(**options, normaliser=22.0, guided_normaliser=10.0)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(doubled.chunk(2)[0] + doubled.chunk(2)[1], gradient)


@pytest.mark.parametrize("options", CASES, ids=label)
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


@pytest.mark.parametrize("options", CASES, ids=label)
def test_garbage_at_unweighted_positions_changes_nothing(options):
    p = positions()
    loss, gradient, _ = p.loss_and_gradient(**options)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()  # positions() comes with garbage
    assert not gradient[1::3].any()


@pytest.mark.parametrize("options", CASES, ids=label)
def test_half_precision_logits_are_widened(options):
    p = positions(dtype=torch.float32)
    half = dataclasses.replace(p, logits=p.logits.bfloat16())
    wide = dataclasses.replace(p, logits=half.logits.float())
    loss, gradient, _ = half.loss_and_gradient(**options)
    expected, reference, _ = wide.loss_and_gradient(**options)
    assert loss.dtype == torch.float32 and loss == expected
    torch.testing.assert_close(gradient.float(), reference, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("options", CASES, ids=label)
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
    for options in CASES:
        loss, gradient, _ = p.loss_and_gradient(**options)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    floored = dataclasses.replace(p, teacher_logprobs=p.teacher_logprobs.clone())
    floored.teacher_logprobs[0, :3] = torch.tensor([LOG_PROB_FLOOR, LOG_PROB_FLOOR - 5, LOG_PROB_FLOOR])
    for estimator in (FULL, TopKEstimator(top_k=V)):
        assert floored.loss(estimator=estimator)[0] == p.loss(estimator=estimator)[0]
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
    p.logits.fill_(-80.0).scatter_(1, p.top_ids[:, :TOP], 5.0)
    p.forward_kl_weight.fill_(1.0)
    loss, gradient, _ = p.loss_and_gradient(forward=TAIL, normaliser=1.0)
    rest = 1 - p.top_lt[:, :TOP].exp().sum()
    truncated = p.loss(normaliser=1.0)[0]
    torch.testing.assert_close(loss, truncated + rest * (rest.log() - math.log(TAIL_FLOOR)))
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("how", [PLAIN, TAIL, RENORMALISED, SCORE_RENORMALISED], ids=repr)
def test_ruled_out_top_tokens_are_as_good_as_unlisted(how):
    p = positions()
    used = p.forward_kl_weight != 0
    p.top_lt[used, TOP - 1] = -INF
    fewer = dataclasses.replace(p, top_ids=p.top_ids[:, : TOP - 1], top_lt=p.top_lt[:, : TOP - 1])
    loss, gradient, _ = p.loss_and_gradient(forward=how)
    expected, reference, _ = fewer.loss_and_gradient(forward=how)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("options", CASES, ids=label)
def test_no_more_top_tokens_are_read_than_asked_for(options):
    p = positions()
    exact = dataclasses.replace(p, top_ids=p.top_ids[:, :TOP], top_lt=p.top_lt[:, :TOP])
    assert p.loss(**options)[0] == exact.loss(**options)[0]
    more = dataclasses.replace(options.get("forward", PLAIN), top_k=STORED)
    assert p.loss(**options | {"forward": more})[0] != exact.loss(**options)[0]


@pytest.mark.parametrize("how", [TAIL, RENORMALISED], ids=repr)
def test_tail_and_renormalising_make_the_truncated_sum_a_divergence(how):
    """Truncated it is negative where the student is surer of the top tokens than the teacher."""
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    surer = torch.tensor([[1.0, 1.1, 0.9]], dtype=torch.float64)
    p.logits = p.teacher_logprobs.scatter_add(1, p.top_ids[:, :TOP], surer)
    assert p.loss()[0] < 0 < p.loss(forward=how)[0]
    p.logits = p.teacher_logprobs
    torch.testing.assert_close(p.loss(forward=how)[0], torch.zeros((), dtype=torch.float64))


def test_renormalised_is_blind_to_the_mass_of_the_top_tokens():
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    p.logits = p.teacher_logprobs.scatter_add(1, p.top_ids[:, :TOP], torch.ones(1, TOP, dtype=torch.float64))
    loss, gradient, _ = p.loss_and_gradient(forward=RENORMALISED)
    assert loss.abs() < 1e-12 and gradient.abs().max() < 1e-12
    assert p.loss(forward=TAIL)[0] > 1e-3


def test_the_score_form_lowers_the_sampled_token_in_proportion_to_the_divergence():
    """Gradient on the logits: `F * (onehot(sampled) - pi_S)`, whatever the teacher would rather have said."""
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    p.forward_kl_weight.fill_(1.0)
    value = p.loss(forward=TAIL, normaliser=1.0)[0]
    loss, gradient, sums = p.loss_and_gradient(forward=SCORE_TAIL, normaliser=1.0)
    onehot = torch.nn.functional.one_hot(p.token, V)
    torch.testing.assert_close(gradient, value * (onehot - p.logits.softmax(-1)))
    assert gradient[0, p.token[0]] > 0 and sums["forward_kl"] == value
    torch.testing.assert_close(loss, value * p.logits.log_softmax(-1)[0, p.token[0]])


# ---- reverse KL over the student's most likely tokens --------------------------------------------


@pytest.fixture(params=range(3))
def policies(request):
    g = torch.Generator().manual_seed(request.param)
    logits = 1.5 * torch.randn(2, V, generator=g, dtype=torch.float64)
    return logits[0], logits[1].log_softmax(-1)


@pytest.mark.parametrize("top_k", [1, 2, 4, V - 1, V, V + 9])
def test_top_k_is_the_kl_of_coarsened_distributions(top_k):
    p = positions()[0::3]
    p.forward_kl_weight.zero_()
    everywhere = torch.ones(len(p.token), dtype=torch.bool)
    ls = p.logits.log_softmax(-1)
    found = reverse_kl(p.logits, p.teacher_logprobs, everywhere, top_k)
    for i, listed in enumerate(p.logits.topk(min(top_k, V)).indices.tolist()):
        expected = coarsened_kl(ls[i].tolist(), p.teacher_logprobs[i].tolist(), listed)
        assert found[i].item() == pytest.approx(expected, rel=1e-12)
    full = reverse_kl(p.logits, p.teacher_logprobs, everywhere)
    assert bool((found >= 0).all()) and bool((found <= full + 1e-12).all())
    loss, gradient, _ = p.loss_and_gradient(estimator=TopKEstimator(top_k=top_k))
    exact, reference, _ = p.loss_and_gradient(estimator=FULL)
    assert torch.allclose(loss, exact, rtol=1e-12) == (top_k >= V - 1)
    assert torch.allclose(gradient, reference, rtol=1e-12) == (top_k >= V - 1)


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_is_not_a_detached_score(policies, top_k):
    """The trap: a divergence summed over the top tokens, detached and put on the sampled token as its score, looks like
    a low-variance K1 and teaches nothing. It does not depend on which token was sampled, so its expected gradient is
    zero; and summing the top tokens' own detached scores times their log-probabilities drops the weight pi_S."""
    logits, teacher = policies
    leaf = logits.clone().requires_grad_()
    reverse_kl(leaf[None], teacher[None], torch.tensor([True]), top_k).sum().backward()

    listed, h = logits.topk(top_k).indices.tolist(), 1e-6
    slopes = []
    for v in range(V):
        shift = torch.zeros_like(logits)
        shift[v] = h
        values = [
            coarsened_kl((logits + sign * shift).log_softmax(-1).tolist(), teacher.tolist(), listed) for sign in (1, -1)
        ]
        slopes.append((values[0] - values[1]) / (2 * h))
    slopes = torch.tensor(slopes, dtype=torch.float64)
    torch.testing.assert_close(leaf.grad, slopes, rtol=0, atol=1e-8)
    assert slopes.abs().max() > 1e-2

    kl = coarsened_kl(logits.log_softmax(-1).tolist(), teacher.tolist(), listed)
    on_sampled = dataclasses.replace(positions(n=V), logits=logits.expand(V, -1), token=torch.arange(V))
    zero = torch.zeros(V, dtype=torch.float64)
    on_sampled = dataclasses.replace(
        on_sampled,
        policy_weight=logits.softmax(-1),  # every token the student could sample, weighed by its probability
        score=zero - kl,
        forward_kl_weight=zero,
        imitation_weight=zero,
    )
    _, gradient, _ = on_sampled.loss_and_gradient(normaliser=1.0)
    assert gradient.sum(0).abs().max() < 1e-12

    leaf = logits.clone().requires_grad_()
    ls = leaf.log_softmax(-1)
    ((ls - teacher).detach() * ls)[listed].sum().backward()
    assert (leaf.grad - slopes).abs().max() > 1e-2


def test_a_small_tail_is_not_lost_to_rounding():
    """Float32, a student sure of one token: the mass of the others is 3e-9, far below the spacing of numbers near 1."""
    logits = torch.tensor([[20.0, 0.0, -1.0]])
    teacher = torch.tensor([[1.0, 0.0, 0.5]]).log_softmax(-1)
    active = torch.tensor([True])
    found, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        kl = reverse_kl(leaf, teacher.to(dtype), active, 1)
        kl.sum().backward()
        found.append(kl.double())
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[0][:, 1:], gradients[1][:, 1:], rtol=1e-5, atol=0)


def test_a_tail_the_teacher_rules_out_is_floored():
    logits = torch.tensor([[1.0, 0.0, 0.5]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, -INF, -INF]], dtype=torch.float64)
    ls = logits.log_softmax(-1)[0]
    rest = 1 - ls[0].exp()
    found = reverse_kl(logits, teacher, torch.tensor([True]), 1)
    torch.testing.assert_close(found[0], ls[0].exp() * ls[0] + rest * (rest.log() - LOG_PROB_FLOOR))


def test_forward_kl_gradient_on_the_logits():
    """`top-k mass * pi_S - pi_T on the top-k`, an L1 norm of at most 2."""
    p = positions(n=3)[slice(0, 1)]
    p.policy_weight.zero_()
    p.forward_kl_weight.fill_(1.0)
    _, gradient, _ = p.loss_and_gradient(normaliser=1.0)
    teacher = torch.zeros_like(p.logits).scatter(1, p.top_ids[:, :TOP], p.top_lt[:, :TOP].exp())
    torch.testing.assert_close(gradient, teacher.sum() * p.logits.softmax(-1) - teacher)
    assert gradient.abs().sum() <= 2


def test_statistics_are_what_they_are_called():
    p = positions()
    _, sums = p.loss(estimator=SAMPLED, clip_ratio=0.2)
    used = p.policy_weight != 0
    torch.testing.assert_close(sums["policy_weight"], p.policy_weight.sum())
    torch.testing.assert_close(sums["reverse_kl"], -(p.policy_weight * p.score)[used].sum())
    assert 0 < sums["clipped"] < used.sum()
    assert sums["imitated"] == (p.imitation_weight != 0).sum()
    _, sums = p.loss(estimator=FULL)
    ls = p.logits.log_softmax(-1)
    kl = (ls.exp() * (ls - p.teacher_logprobs)).sum(-1)
    torch.testing.assert_close(sums["reverse_kl"], (p.policy_weight * kl)[used].sum())


def test_missing_tensors_are_named():
    p = positions()
    for estimator, name in ((FULL, "'full'"), (TOP_K, "'top_k'")):
        with pytest.raises(ValueError, match=f"{name} needs teacher_logprobs"):
            dataclasses.replace(p, teacher_logprobs=None).loss(estimator=estimator)
    with pytest.raises(ValueError, match="share one vocabulary"):
        dataclasses.replace(p, teacher_logprobs=p.teacher_logprobs[:, :-1]).loss(estimator=FULL)
    with pytest.raises(ValueError, match="top_ids or top_lt is None"):
        dataclasses.replace(p, top_lt=None).loss()
    with pytest.raises(ValueError, match="how forward KL is taken"):
        p.loss(forward=None)
    p.forward_kl_weight.zero_()
    dataclasses.replace(p, top_ids=None, top_lt=None, teacher_logprobs=None).loss(forward=None)
