import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import BernoulliGate, ClosedGate, OffGate, SoftGate, ThresholdGate
from trpd_agents.credit.gate import acceptance, trust

QUICK = settings(deadline=None, max_examples=30, derandomize=True)
GATE_TYPES = (BernoulliGate, SoftGate, ThresholdGate)


def trusted(gate, d, step=0, seed=0, first_id=0):
    ids = torch.arange(first_id, first_id + d.shape[0])
    return trust(gate, d, ids, torch.arange(d.shape[1]).expand(d.shape), step, seed)


def random_policies(vocabulary, rows=50):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1).unbind(0)


def test_mean_acceptance_under_the_student_is_one_minus_total_variation():
    student, teacher = random_policies(11)
    mean = (student.exp() * acceptance(teacher - student)).sum(-1)
    tv = (student.exp() - teacher.exp()).abs().sum(-1) / 2
    torch.testing.assert_close(mean, 1 - tv)


def test_bernoulli_draws_with_the_acceptance_probability():
    d = torch.tensor([-4.0, -1.0, -0.2, 0.0, 1.5]).repeat(40_000, 1)
    drawn = trusted(BernoulliGate(), d)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    p = acceptance(d[0])
    assert ((drawn.mean(0) - p).abs() <= 4 * (p * (1 - p) / 40_000).sqrt()).all()


@QUICK
@given(d=st.floats(-50, 0))
def test_soft_score_of_a_disliked_token_is_at_most_one_over_e(d):
    d = torch.tensor([[d]], dtype=torch.float64)
    assert (trusted(SoftGate(), d) * d).abs().item() <= 1 / math.e + 1e-12


@QUICK
@given(
    d=st.lists(st.floats(-20, 5), min_size=1, max_size=20),
    slacks=st.tuples(st.floats(0, 20), st.floats(0, 20)).map(sorted),
)
@pytest.mark.parametrize("gate", GATE_TYPES)
def test_more_slack_never_trusts_less(gate, d, slacks):
    d = torch.tensor([d])
    small, large = (trusted(gate(slack=s), d) for s in slacks)
    assert (small <= large).all()
    assert (trusted(gate(slack=math.inf), d) == 1).all()


@pytest.mark.parametrize("gate", [OffGate(), *(g() for g in GATE_TYPES)])
def test_what_the_teacher_likes_is_trusted(gate):
    assert (trusted(gate, torch.tensor([[0.0, 0.3, 40.0]])) == 1).all()


def test_a_closed_gate_trusts_nothing():
    assert (trusted(ClosedGate(), torch.tensor([[0.0, 0.3, 40.0, -3.0]])) == 0).all()


def test_threshold_is_a_threshold():
    assert trusted(ThresholdGate(slack=2.0), torch.tensor([[-1.9, -2.0, -2.1]])).tolist() == [[1, 1, 0]]


def test_draws_depend_on_seed_step_and_trajectory():
    d = torch.full((1, 400), -0.7)
    base = trusted(BernoulliGate(), d)
    for other in (
        trusted(BernoulliGate(), d, step=1),
        trusted(BernoulliGate(), d, seed=1),
        trusted(BernoulliGate(), d, first_id=1),
    ):
        assert 0.3 < (base != other).float().mean() < 0.7
    assert torch.equal(base, trusted(BernoulliGate(), d))
