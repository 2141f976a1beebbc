import pytest
import torch

from trpd_agents.credit import BernoulliGate, ClosedGate, OffGate, SoftGate, ThresholdGate
from trpd_agents.credit.gate import acceptance, trust

GATE_TYPES = (BernoulliGate, SoftGate, ThresholdGate)


def trusted(gate, d, step=0, seed=0, first_id=0):
    ids = torch.arange(first_id, first_id + d.shape[0])
    return trust(gate, d, ids, torch.arange(d.shape[1]).expand(d.shape), step, seed)


def test_bernoulli_draws_with_the_acceptance_probability():
    d = torch.tensor([-4.0, -1.0, -0.2, 0.0, 1.5]).repeat(40_000, 1)
    drawn = trusted(BernoulliGate(), d)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    p = acceptance(d[0])
    assert ((drawn.mean(0) - p).abs() <= 4 * (p * (1 - p) / 40_000).sqrt()).all()


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
