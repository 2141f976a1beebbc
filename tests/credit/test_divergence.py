import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import DIVERGENCES, INVALID_LOG_RATIO, STATISTICS, CreditConfig, Divergence, assign_credit
from trpd_agents.credit.divergence import MAX_LOG_RATIO, TurnTokens, summarise_turns

QUICK = settings(deadline=None, max_examples=40, derandomize=True)
INF, NAN = math.inf, math.nan

BY_HAND = {
    "tv": lambda d, lt: 1 - sum(min(math.exp(x), 1) for x in d) / len(d),
    "excess": lambda d, lt: sum(max(-x, 0) for x in d) / len(d),
    "abs": lambda d, lt: sum(abs(x) for x in d) / len(d),
    "k1": lambda d, lt: -sum(d) / len(d),
    "k3": lambda d, lt: sum(math.exp(x) - 1 - x for x in d) / len(d),
    "max": lambda d, lt: max(-x for x in d),
    "teacher_logprob": lambda d, lt: -sum(lt) / len(lt),
}


def of_turns(kind, scored):
    return assign_credit(scored, CreditConfig(divergence=Divergence(kind=kind))).turn_divergence


def test_every_divergence_has_its_statistic():
    assert set(STATISTICS) == set(DIVERGENCES) == set(BY_HAND)


@pytest.mark.parametrize("kind", STATISTICS)
def test_statistics_are_their_definitions(kind, build_batch, episodes):
    @QUICK
    @given(episodes)
    def check(batch):
        found = of_turns(kind, build_batch(batch))
        for b, episode in enumerate(batch):
            for k, played in enumerate(episode):
                looked_at = played.author == "student" and played.complete and played.ls
                d = [t - s for s, t in zip(played.ls, played.lt, strict=True)]
                expected = BY_HAND[kind](d, played.lt) if looked_at else 0
                assert found[b, k].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)

    check()


def random_policies(n=6, rows=40):
    generator = torch.Generator().manual_seed(3)
    return (1.5 * torch.randn(2, rows, n, generator=generator, dtype=torch.float64)).log_softmax(-1).unbind(0)


@pytest.mark.parametrize(
    ("kind", "mean"),
    [
        ("tv", lambda s, t: (s.exp() - t.exp()).abs().sum(-1) / 2),
        ("k1", lambda s, t: (s.exp() * (s - t)).sum(-1)),
        ("k3", lambda s, t: (s.exp() * (s - t)).sum(-1)),
    ],
)
def test_mean_under_the_student_is_the_divergence_it_estimates(kind, mean):
    student, teacher = random_policies()
    n = student.shape[1]
    # every token a turn of its own, so that the statistic of a turn is that of one draw
    turn = torch.arange(n).expand(student.shape)
    tokens = TurnTokens(teacher - student, student, turn, torch.ones_like(turn, dtype=torch.bool), n)
    found = (student.exp() * STATISTICS[kind](tokens)).sum(-1)
    torch.testing.assert_close(found, mean(student, teacher))


@pytest.mark.parametrize("kind", STATISTICS)
def test_further_from_the_teacher_is_larger(kind, build_batch, turn_type):
    near, far = turn_type([-1.0, -2.0], [-1.5, -2.5]), turn_type([-1.0, -2.0], [-4.0, -5.0])
    found = of_turns(kind, build_batch([[near, far]]))[0]
    assert 0 < found[0] < found[1]


@pytest.mark.parametrize("kind", [k for k in STATISTICS if k != "teacher_logprob"])
def test_agreement_is_zero(kind, build_batch, turn_type):
    assert of_turns(kind, build_batch([[turn_type([-1.0, -2.5], [-1.0, -2.5])]])).tolist() == [[0]]


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize("ls", [-1e4, -3e38])
def test_an_enormous_ratio_stays_finite(kind, ls, build_batch, turn_type):
    found = of_turns(kind, build_batch([[turn_type([ls, -1.0], [-0.5, -1.0])]]))
    assert torch.isfinite(found).all()
    if kind == "k3":
        capped = math.exp(MAX_LOG_RATIO) - 1 - MAX_LOG_RATIO
        assert found[0, 0].item() == pytest.approx(capped / 2, rel=1e-5)


@pytest.mark.parametrize("spoiled", [-INF, INF, NAN])
def test_an_invalid_teacher_score_is_twenty_nats_away(spoiled, build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0, -1.0], [-1.0, spoiled])]])
    for kind in STATISTICS:
        lt = [-1.0, -1.0 + INVALID_LOG_RATIO]
        expected = BY_HAND[kind]([0, INVALID_LOG_RATIO], lt)
        assert of_turns(kind, scored).item() == pytest.approx(expected, rel=1e-5)


@QUICK
@given(st.data())
def test_sums_and_maxima_read_each_turns_usable_tokens(data):
    n = data.draw(st.integers(0, 8))
    values = data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n))
    turn = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    usable = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    # what is not usable names no turn and holds no number
    d = torch.tensor([[v if u else NAN for v, u in zip(values, usable, strict=True)]], dtype=torch.float32)
    at = torch.tensor([[t if u else -1 for t, u in zip(turn, usable, strict=True)]], dtype=torch.int64)
    tokens = TurnTokens(d, d, at, torch.tensor([usable], dtype=torch.bool), 3)
    for k in range(3):
        mine = [v for v, t, u in zip(values, turn, usable, strict=True) if u and t == k]
        assert tokens.sum(d)[0, k] == sum(mine) and tokens.count()[0, k] == len(mine)
        assert tokens.max(d)[0, k] == max(mine, default=0)
        assert tokens.mean(d)[0, k].item() == pytest.approx(sum(mine) / max(len(mine), 1))


def test_the_students_surprisal_is_the_mean_over_its_turn(build_batch, turn_type):
    scored = build_batch([[turn_type([-1.0, -2.0], [-1.0, -9.0]), turn_type([], [])]])
    ls = torch.where(scored.action, scored.ls, 0)
    tokens = TurnTokens(torch.zeros_like(ls), ls, scored.turn, scored.action, 2)
    turns = summarise_turns(Divergence(), tokens, scored.ok, scored.complete, scored.repeat)
    assert turns.student_surprisal.tolist() == [[1.5, 0]]
