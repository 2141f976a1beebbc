"""Expectations by exact enumeration: what a method does on average, over every token of a small vocabulary and every
trajectory of one or two turns, against closed forms, loops and finite differences.

These are properties 6, 8 and 10; the others are in test_properties.py. Weights and scores are float32, so "equal" means
to about six digits; everything around them is float64.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import (
    BernoulliGate,
    BernoulliGuidance,
    ClipOutliers,
    ClosedGate,
    CreditConfig,
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    HysteresisRule,
    LeakyRule,
    MaskOutliers,
    OccupancyRule,
    OffGate,
    PositionRule,
    PrefixGuidance,
    ProximalOutliers,
    RandomRule,
    RescueGuidance,
    SoftGate,
    StopRule,
    ThresholdGate,
    TopKEstimator,
    assign_credit,
    scored_batch,
)
from trpd_agents.credit.config import NoRule, SampledEstimator
from trpd_agents.learner.divergences import TAIL_FLOOR
from trpd_agents.learner.streams import stream_losses

QUICK = settings(deadline=None, max_examples=40, derandomize=True)

logits = st.floats(-4, 4)


def tables(rows):
    """Student's logits and teacher's log-probabilities, `[rows(V), V]` each."""

    def of(V):
        table = st.lists(st.lists(logits, min_size=V, max_size=V), min_size=rows(V), max_size=rows(V))
        return st.tuples(*[table.map(lambda values: torch.tensor(values, dtype=torch.float64))] * 2)

    return st.integers(2, 6).flatmap(of).map(lambda pair: (pair[0], pair[1].log_softmax(-1)))


one_turn = tables(lambda V: 1)
two_turns = tables(lambda V: V + 1)  # the first turn's distribution, then one for each token it may have been


def every_trajectory(student, teacher, copies=1, top_k=None):
    """Every trajectory of one-token turns, `copies` times under different names: its token and the row of its
    distribution at each turn `[n, K]`, its probability `[n]`, and the batch."""
    V = student.shape[1]
    K = 1 if len(student) == 1 else 2
    token = torch.tensor(list(itertools.product(range(V), repeat=K))).repeat(copies, 1)
    row = torch.cat([torch.zeros_like(token[:, :1]), 1 + token[:, :-1]], 1)
    ls = student.log_softmax(-1)[row, token]
    top = [torch.stack(values) for values in zip(*(row.topk(top_k or V) for row in teacher), strict=True)]
    scored = scored_batch(
        torch.ones_like(token),
        ls,
        teacher[row, token],
        turn=torch.arange(K).expand(token.shape),
        top_lt=top[0][row],
        top_ids=top[1][row],
        entropy=-(teacher.exp() * teacher).sum(-1)[row],
    )
    return token, row, ls.sum(1).exp(), scored


def expected_gradient(config, student, teacher, copies=1):
    """Expectation over trajectories of the gradient of the summed loss, by the student's logits `[rows, V]`; and the
    credit that led to it."""
    forward = config.forward_kl
    token, row, mass, scored = every_trajectory(student, teacher, copies, forward and forward.top_k)
    credit = assign_credit(scored, config)
    leaf = student.clone().requires_grad_()
    at = row.flatten()
    loss, _ = stream_losses(
        leaf[at],
        token.flatten(),
        scored.ls.flatten(),
        (mass[:, None] * credit.policy_weight).flatten(),
        credit.score.flatten(),
        (mass[:, None] * credit.forward_kl_weight).flatten(),
        credit.imitation_weight.flatten(),
        estimator=config.estimator,
        forward=forward,
        normaliser=copies,
        guided_normaliser=0.0,
        top_ids=scored.top_ids.flatten(0, 1),
        top_lt=scored.top_lt.flatten(0, 1),
        teacher_logprobs=teacher[at],
    )
    loss.backward()
    return leaf.grad, credit


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def mean_push(student, coefficient):
    """`-sum_v pi_S(v) coefficient(v) grad log pi_S(v)` by the logits `[V]`, written out."""
    p = student.softmax(-1).tolist()
    V = len(p)
    return torch.tensor(
        [-sum(p[v] * coefficient[v] * ((v == j) - p[j]) for v in range(V)) for j in range(V)], dtype=torch.float64
    )


def kl_gradient(student, teacher):
    """Of `KL(S || T)` by the student's logits, rows `[..., V]`."""
    ls = student.log_softmax(-1)
    ratio = ls - teacher
    return ls.exp() * (ratio - (ls.exp() * ratio).sum(-1, keepdim=True))


def finite_differences(function, at, h=1e-5):
    slopes = []
    for j in range(len(at)):
        step = torch.zeros_like(at)
        step[j] = h
        slopes.append((function(at + step) - function(at - step)) / (2 * h))
    return torch.tensor(slopes, dtype=torch.float64)


# ---- 6 -------------------------------------------------------------------------------------------


# would catch: the wrong sign, a score that carries gradient, a bucket of other tokens left out
@pytest.mark.parametrize("estimator", [SampledEstimator(), FullEstimator(), "all but one"], ids=str)
@QUICK
@given(two_turns)
def test_property_06_vanilla_distillation_descends_the_reverse_kl(estimator, policies):
    student, teacher = policies
    estimator = TopKEstimator(top_k=student.shape[1] - 1) if isinstance(estimator, str) else estimator
    gradient, _ = expected_gradient(CreditConfig(estimator=estimator), *policies)
    reached = torch.cat([torch.ones(1, dtype=torch.float64), student[0].softmax(-1)])
    close(gradient, reached[:, None] * kl_gradient(student, teacher))


def mean_score(gate, outlier, d):
    """Mean over the gate's draws of `weight * score`, from the definitions in method.md's words, for one log ratio."""
    accept = {
        OffGate: lambda: 1.0,
        ClosedGate: lambda: 0.0,
        SoftGate: lambda: min(math.exp(min(d + gate.slack, 0)), 1),
        ThresholdGate: lambda: float(d >= -gate.slack),
    }[type(gate)]()
    rejected = {
        MaskOutliers: lambda: 0.0,
        ClipOutliers: lambda: max(d, outlier.floor),
        ProximalOutliers: lambda: (
            math.log(outlier.mix * math.exp(d) + 1 - outlier.mix) / (outlier.mix if outlier.scaled else 1)
        ),
    }[type(outlier)]()
    return accept * d + (1 - accept) * rejected


slacks = st.floats(0, 3)
exact_gates = st.one_of(
    st.sampled_from([OffGate(), ClosedGate()]),
    slacks.map(lambda s: SoftGate(slack=s)),
    st.just(ThresholdGate(slack=1.0)),
)
bounds = st.one_of(
    st.just(MaskOutliers()),
    st.floats(-4, 0).map(lambda floor: ClipOutliers(floor=floor)),
    st.builds(ProximalOutliers, mix=st.floats(0.05, 0.95), scaled=st.booleans()),
)


# would catch: a gate on the wrong side of 0, a floor taken as a ceiling, a weight applied twice or to the wrong branch
@QUICK
@given(one_turn, exact_gates, bounds)
def test_property_06_gated_and_bounded_gradients_are_their_definitions(policies, gate, outlier):
    student, teacher = policies
    d = (teacher - student.log_softmax(-1))[0].tolist()
    if isinstance(gate, ThresholdGate) and any(abs(x + gate.slack) < 1e-5 for x in d):
        return  # float32 may fall on either side
    gradient, _ = expected_gradient(CreditConfig(gate=gate, outlier=outlier), *policies)
    close(gradient[0], mean_push(student[0], [mean_score(gate, outlier, x) for x in d]))


# would catch: an acceptance other than min(1, rho)
@QUICK
@given(one_turn)
def test_property_06_the_soft_gate_weighs_by_the_smaller_of_the_two_probabilities(policies):
    student, teacher = policies
    gradient, _ = expected_gradient(CreditConfig(gate=SoftGate()), *policies)
    ls = student[0].log_softmax(-1)
    scale = torch.minimum(ls, teacher[0]).exp() * (teacher[0] - ls)
    close(gradient[0], -(scale - scale.sum() * ls.exp()))


# would catch: draws with another probability than the acceptance, or correlated over trajectories
@settings(QUICK, max_examples=8)
@given(one_turn, slacks)
def test_property_06_the_bernoulli_gate_has_the_soft_gradient_on_average(policies, slack):
    copies = 4000
    student, teacher = policies
    drawn, _ = expected_gradient(CreditConfig(gate=BernoulliGate(slack=slack)), *policies, copies=copies)
    soft, _ = expected_gradient(CreditConfig(gate=SoftGate(slack=slack)), *policies)
    ls = student[0].log_softmax(-1)
    d = teacher[0] - ls
    accept = (d + slack).clamp(max=0).exp()
    push = (ls.exp() * d)[:, None] * (torch.eye(len(d)) - ls.exp())
    error = ((accept * (1 - accept))[:, None] * push**2).sum(0).sqrt() / copies**0.5
    assert ((drawn - soft)[0].abs() <= 4.5 * error + 2e-6).all()


def forward_kl(student, teacher, how):
    """Its definition, in loops, from logits and log-probabilities `[V]`. Among equals `topk` chooses."""
    ls, lt = student.log_softmax(-1).tolist(), teacher.tolist()
    top = teacher.topk(how.top_k).indices.tolist()
    mass_t, mass_s = (sum(math.exp(x[v]) for v in top) for x in (lt, ls))
    if how.renormalise:
        return sum(math.exp(lt[v]) / mass_t * (lt[v] - math.log(mass_t) - ls[v] + math.log(mass_s)) for v in top)
    value = sum(math.exp(lt[v]) * (lt[v] - ls[v]) for v in top)
    if how.tail and 1 - mass_t > 1e-12:
        value += (1 - mass_t) * (math.log(1 - mass_t) - math.log(max(1 - mass_s, TAIL_FLOOR)))
    return value


forms = st.builds(
    lambda kind, top_k, tail, renormalise: kind(top_k=top_k, tail=tail and not renormalise, renormalise=renormalise),
    st.sampled_from([ForwardKLOutliers, lambda **how: EntropyOutliers(threshold=0.0, **how)]),
    st.integers(1, 6),
    st.booleans(),
    st.booleans(),
)


# would catch: a detached top-k, the student's mass taken for the teacher's, a tail or a renormalisation left out
@QUICK
@given(one_turn, slacks, forms)
def test_property_06_forward_kl_is_weighed_by_the_rejected_share_and_differentiated_directly(policies, slack, how):
    student, teacher = policies
    how = type(how)(**{**vars(how), "top_k": min(how.top_k, student.shape[1])})
    gate = SoftGate(slack=slack)
    both, _ = expected_gradient(CreditConfig(gate=gate, outlier=how), *policies)
    alone, _ = expected_gradient(CreditConfig(gate=gate), *policies)
    d = teacher[0] - student[0].log_softmax(-1)
    rejected = (student[0].softmax(-1) * (1 - (d + slack).clamp(max=0).exp())).sum()
    share = 1.0 if isinstance(how, EntropyOutliers) else rejected  # `entropy` adds it wherever the teacher is unsure
    slopes = finite_differences(lambda at: forward_kl(at, teacher[0], how), student[0])
    close((both - alone)[0], share * slopes)


# would catch: the trap of a detached divergence as a score, passing for the forward KL it was computed from
@QUICK
@given(one_turn, st.integers(1, 6))
def test_property_06_the_score_form_only_pushes_rejected_tokens_down(policies, top_k):
    """Its expected gradient is `F * E[(1 - M) grad log pi_S]`: where all tokens are rejected it says nothing at all."""
    student, teacher = policies
    how = ForwardKLOutliers(top_k=min(top_k, student.shape[1]), gradient="score")
    both, _ = expected_gradient(CreditConfig(gate=SoftGate(), outlier=how), *policies)
    alone, _ = expected_gradient(CreditConfig(gate=SoftGate()), *policies)
    value = forward_kl(student[0], teacher[0], how)
    d = (teacher - student.log_softmax(-1))[0].tolist()
    close((both - alone)[0], mean_push(student[0], [-value * (1 - min(math.exp(x), 1)) for x in d]))
    nothing, _ = expected_gradient(CreditConfig(gate=ClosedGate(), outlier=how), *policies)
    assert nothing.abs().max() < 1e-5


EARLIER = [
    NoRule(),
    StopRule(enter=0.4, outside_weight=0.25),
    LeakyRule(enter=0.2),
    HysteresisRule(enter=0.3),
    OccupancyRule(budget=1.0),
    OccupancyRule(budget=0.5, form="soft"),
    PositionRule(decay=0.5),
]


# would catch: a turn weight that depends on what was sampled in the turn it weighs, which would bias the direction
@pytest.mark.parametrize("rule", EARLIER, ids=str)
@settings(QUICK, max_examples=15)
@given(two_turns)
def test_property_06_a_rule_on_earlier_turns_keeps_the_direction_and_weighs_each_history(rule, policies):
    student, teacher = policies
    gradient, credit = expected_gradient(CreditConfig(rule=rule), *policies)
    V = student.shape[1]
    weight = credit.turn_weight[::V, 1].double()  # by the first turn's token; the same whatever came next
    reached = torch.cat([torch.ones(1, dtype=torch.float64), weight * student[0].softmax(-1)])
    close(gradient, reached[:, None] * kl_gradient(student, teacher))
    exact, _ = expected_gradient(CreditConfig(rule=rule, estimator=FullEstimator()), *policies)
    close(gradient, exact)


# would catch: a top-k estimator that drops or double-counts its last token, whatever the weights are
@pytest.mark.parametrize("rule", [*EARLIER, RandomRule()], ids=str)
@settings(QUICK, max_examples=8)
@given(two_turns, st.sampled_from([OffGate(), SoftGate(), BernoulliGate(slack=0.5)]))
def test_property_06_all_but_one_token_are_as_good_as_all(rule, policies, gate):
    full, top = (
        expected_gradient(CreditConfig(gate=gate, rule=rule, estimator=estimator), *policies)[0]
        for estimator in (FullEstimator(), TopKEstimator(top_k=policies[0].shape[1] - 1))
    )
    torch.testing.assert_close(top, full)


# ---- 8 -------------------------------------------------------------------------------------------


def total_variation(student, teacher):
    return (student.softmax(-1) - teacher.exp()).abs().sum(-1) / 2


# would catch: an acceptance that is not min(1, rho), a `tv` that is not its complement, a mean over the wrong tokens
@QUICK
@given(two_turns)
def test_property_08_the_accepted_share_is_one_minus_the_total_variation(policies):
    student, teacher = policies
    _, _, mass, scored = every_trajectory(student, teacher)
    credit = assign_credit(scored, CreditConfig(gate=SoftGate()))
    tv = total_variation(student, teacher)
    by_turn = torch.stack([tv[0], (student[0].softmax(-1) * tv[1:]).sum()])
    close(mass @ credit.policy_weight.double(), 1 - by_turn)
    close(mass @ credit.turn_divergence.double(), by_turn)


# would catch: draws that are not uniform, or that neighbouring trajectories share
@settings(QUICK, max_examples=10)
@given(one_turn, st.integers(0, 3))
def test_property_08_what_the_bernoulli_gate_accepts_of_samples_is_within_binomial_bounds(policies, seed):
    student, teacher = policies
    n = 3000
    sampled = torch.multinomial(student[0].softmax(-1), n, True, generator=torch.Generator().manual_seed(seed))
    ls, lt = student[0].log_softmax(-1)[sampled], teacher[0][sampled]
    scored = scored_batch(torch.ones(n // 3, 3), ls.view(-1, 3), lt.view(-1, 3))
    credit = assign_credit(scored, CreditConfig(gate=BernoulliGate()), seed=seed)
    share = 1 - total_variation(student, teacher).item()
    bound = 4.5 * math.sqrt(share * (1 - share) / n) + 1e-6
    assert abs(credit.policy_weight.mean().item() - share) <= bound
    assert abs(credit.counts["acceptance"] - share) <= bound  # the figure in the logs


# would catch: a gate with a slack where there should be none, a score that is not weighed by its acceptance
@QUICK
@given(st.lists(st.floats(-60, 0), min_size=1, max_size=30))
def test_property_08_a_soft_score_is_at_most_one_over_e(d):
    lt = torch.tensor([d], dtype=torch.float64)
    credit = assign_credit(scored_batch(torch.ones_like(lt), torch.zeros_like(lt), lt), CreditConfig(gate=SoftGate()))
    assert (credit.policy_weight * credit.score).abs().max() <= 1 / math.e + 1e-6


# ---- 10 ------------------------------------------------------------------------------------------


def guided_step(guidance, student, teacher):
    """Expected step of descent on the logits `[V]`, over every token the teacher could write, per unit of beta."""
    V = len(student)
    guided = torch.ones(V, 1)
    scored = scored_batch(torch.zeros(V, 1), guided * math.nan, guided * math.nan, guided=guided)
    credit = assign_credit(scored, CreditConfig(guidance=guidance))
    leaf = student.expand(V, -1).clone().requires_grad_()
    loss, _ = stream_losses(
        leaf,
        torch.arange(V),
        scored.ls[:, 0],
        credit.policy_weight[:, 0],
        credit.score[:, 0],
        credit.forward_kl_weight[:, 0],
        teacher * credit.imitation_weight[:, 0] / guidance.beta,
        estimator=SampledEstimator(),
        normaliser=0.0,
        guided_normaliser=1.0,
    )
    loss.backward()
    return -leaf.grad.sum(0)


def scalar_step(student, teacher):
    """The same with the advantage `ls - lt` on the teacher's tokens: what must not be done."""
    p = student.softmax(-1)
    advantage = teacher * (p.log() - teacher.log())
    return advantage - advantage.sum() * p


# would catch: imitation with the wrong sign or through a score, weights that depend on what the student thought
@pytest.mark.parametrize("guidance", [PrefixGuidance(), BernoulliGuidance(beta=0.3), RescueGuidance(beta=2.0)], ids=str)
@QUICK
@given(one_turn)
def test_property_10_guidance_moves_the_student_to_the_teacher(guidance, policies):
    student, teacher = policies[0][0], policies[1][0].exp()
    towards = teacher - student.softmax(-1)
    step = guided_step(guidance, student, teacher)
    close(step, towards)
    assert step @ towards > 0 or towards.abs().max() < 1e-6


# would catch: guidance turned into an advantage, which trains in reverse
def test_property_10_guidance_as_a_scalar_advantage_points_away_from_the_teacher():
    generator = torch.Generator().manual_seed(5)
    direct, scalar, products = [], [], []
    for _ in range(200):
        student, other = torch.randn(2, 12, generator=generator, dtype=torch.float64)
        teacher = other.softmax(-1)
        towards = teacher - student.softmax(-1)
        wrong = scalar_step(student, teacher)
        direct.append(torch.cosine_similarity(guided_step(PrefixGuidance(), student, teacher), towards, dim=0).item())
        scalar.append(torch.cosine_similarity(wrong, towards, dim=0).item())
        products.append((wrong @ towards).item())
    assert min(direct) > 0.999999
    assert sum(products) / len(products) < 0 and max(scalar) < 0
    assert sum(scalar) / len(scalar) == pytest.approx(-0.95, abs=0.03)
