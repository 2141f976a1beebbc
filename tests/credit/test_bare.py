import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import (
    CreditConfig,
    ForwardKLOutliers,
    HysteresisRule,
    OccupancyRule,
    SoftGate,
    assign_credit,
    scored_batch,
)
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn, pad_scored

QUICK = settings(deadline=None, max_examples=40, derandomize=True)


def test_runs_of_action_tokens_are_turns_by_default():
    action = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]])
    batch = scored_batch(action, torch.zeros(3, 6), torch.zeros(3, 6))
    assert batch.turn.tolist() == [[-1, 0, 0, -1, 1, -1], [0, -1, -1, -1, -1, 1], [-1] * 6]
    assert batch.action.dtype == torch.bool and batch.ok.shape == (3, 2) and batch.ok.all() and batch.complete.all()
    assert batch.trajectory_id.tolist() == [0, 1, 2] and batch.teacher_available.all() and not batch.guided.any()


def test_a_guided_run_is_a_turn_of_its_own():
    action, guided = torch.tensor([[0, 1, 0, 0, 1]]), torch.tensor([[0, 0, 1, 1, 0]])
    assert scored_batch(action, torch.zeros(1, 5), torch.zeros(1, 5), guided=guided).turn.tolist() == [[-1, 0, 1, 1, 2]]


@QUICK
@given(st.data())
def test_padding_on_either_side_changes_no_token(data):
    n, left, right = (data.draw(st.integers(*bounds)) for bounds in ((1, 10), (0, 4), (0, 4)))
    action = torch.tensor([data.draw(st.lists(st.booleans(), min_size=n, max_size=n))])
    ls, lt = (torch.tensor([data.draw(st.lists(st.floats(-5, 0, width=32), min_size=n, max_size=n))]) for _ in range(2))
    config = CreditConfig(gate=SoftGate(), rule=OccupancyRule(budget=1.0))
    plain = assign_credit(scored_batch(action, ls, lt), config)
    pad = torch.nn.functional.pad
    wide = scored_batch(pad(action, (left, right)), *(pad(x, (left, right), value=math.nan) for x in (ls, lt)))
    padded = assign_credit(wide, config)
    for name in ("policy_weight", "score", "turn_unit", "reason"):
        found = getattr(padded, name)
        assert torch.equal(found[:, left : left + n], getattr(plain, name))
        assert not found[:, :left].any() and not found[:, left + n :].any()
    assert torch.equal(padded.turn_weight, plain.turn_weight)


def test_it_equals_the_batch_written_out(build_batch, turn_type):
    episodes = [
        [turn_type([-1.0, -2.0], [-3.0, -2.5]), turn_type([-0.5], [-4.0], ok=False)],
        [turn_type([-1.0], [-1.5], complete=False)],
    ]
    full = build_batch(episodes, ids=[4, 9])
    bare = scored_batch(
        full.action,
        full.ls,
        full.lt,
        ok=full.ok,
        complete=full.complete,
        trajectory_id=full.trajectory_id,
        top_ids=full.top_ids,
        top_lt=full.top_lt,
    )
    for config in (
        CreditConfig(rule=HysteresisRule()),
        CreditConfig(gate=SoftGate(), outlier=ForwardKLOutliers(top_k=3)),
    ):
        a, b = assign_credit(full, config), assign_credit(bare, config)
        for name in ("policy_weight", "score", "forward_kl_weight", "turn_weight", "turn_divergence", "reason"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_turns_that_touch_are_told_apart_by_an_explicit_turn():
    action, ls = torch.ones(1, 3, dtype=torch.int64), torch.full((1, 3), -1.0)
    lt = torch.tensor([[-9.0, -1.0, -1.0]])
    config = CreditConfig(rule=OccupancyRule(budget=1.0))
    assert assign_credit(scored_batch(action, ls, lt), config).policy_weight.tolist() == [[1, 1, 1]]
    turn = torch.tensor([[0, 1, 1]], dtype=torch.int32)
    assert assign_credit(scored_batch(action, ls, lt, turn=turn), config).policy_weight.tolist() == [[1, 0, 0]]


def test_half_precision_and_no_tokens_at_all():
    action = torch.tensor([[1, 0]])
    low = torch.tensor([[-1.0, math.nan]], dtype=torch.bfloat16)
    credit = assign_credit(scored_batch(action, low, low), CreditConfig())
    assert credit.policy_weight.dtype == torch.float32 and credit.policy_weight.tolist() == [[1, 0]]
    for shape in ((0, 0), (2, 0), (0, 3), (2, 3)):
        nothing = scored_batch(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape))
        assert assign_credit(nothing, CreditConfig()).counts["action_tokens"] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"action": torch.tensor([1, 0])}, r"action: found shape \(2,\), wanted \[B, T\]"),
        ({"action": torch.tensor([[1, 2]])}, "action: found values other than 0 and 1"),
        ({"guided": torch.tensor([[1]])}, r"guided: found shape \(1, 1\), wanted \(1, 2\)"),
        ({"guided": torch.tensor([[1, 0]])}, "also action"),
        ({"ls": torch.zeros(1, 3)}, "ls: found shape"),
        ({"turn": torch.tensor([[4, -1]]), "ok": torch.ones(1, 2)}, "outside turns 0 to 1"),
        ({"entropy": torch.zeros(1, 3)}, "entropy: found shape"),
        ({"success": torch.ones(2)}, "success: found shape"),
        ({"top_lt": torch.zeros(1, 2)}, "top_lt: found shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(arguments, complaint):
    given = {"action": torch.tensor([[1, 0]]), "ls": torch.zeros(1, 2), "lt": torch.zeros(1, 2)} | arguments
    with pytest.raises(ValueError, match=complaint):
        assign_credit(scored_batch(**given), CreditConfig())


# ---- the same from trajectories ------------------------------------------------------------------


def trajectory(texts, observations, final="", success=True, entropy=None):
    turns = [
        Turn((2 * k, 2 * k + 1), (2 * k + 1, 2 * k + 2), "student", Stop.END, seen, text)
        for k, (text, seen) in enumerate(zip(texts, observations, strict=True))
    ]
    n = len(turns)
    positions = np.arange(n) * 2 + 1
    return Trajectory(
        id=3,
        env_id="e",
        env_kwargs={},
        seed=0,
        tokens=np.zeros(2 * n, dtype=np.int32),
        logprobs=np.full(2 * n, -1.0, dtype=np.float32),
        turns=turns,
        outcome=Outcome.TERMINATED,
        success=success,
        reward=0.0,
        final_observation=final,
        scores=Scores(positions, np.full(n, -1.5, dtype=np.float32), entropy=entropy),
    )


def test_a_turn_repeats_the_one_before_if_text_and_answer_are_the_same():
    #                    asked       answered by the next observation
    walks = trajectory(["right", "right", "right", "right"], ["A", "B", "C", "C"], final="C")
    loops = trajectory(["look", "open", "look"], ["A", "B", "A"], final="B")
    assert pad_scored([walks, loops]).repeat.tolist() == [[False, False, True, True], [False] * 4]
    tries = trajectory(["open", "open"], ["a door", "it is locked"], final="it is locked")
    assert pad_scored([tries]).repeat.tolist() == [[False, True]]


def test_outcomes_are_there_only_if_every_trajectory_has_one():
    won, lost, broken = (trajectory(["a"], ["A"], success=s) for s in (True, False, None))
    assert pad_scored([won, lost]).success.tolist() == [True, False]
    assert pad_scored([won, broken]).success is None
    assert pad_scored([]).success.shape == (0,)


def test_entropy_is_laid_out_at_the_scored_positions():
    with_it = trajectory(["a", "b"], ["A", "B"], entropy=np.array([0.25, 2.0], dtype=np.float32))
    without = trajectory(["a"], ["A"])
    found = pad_scored([with_it, without])
    assert found.entropy[0, [1, 3]].tolist() == [0.25, 2.0]
    assert found.entropy[0, [0, 2]].isnan().all() and found.entropy[1].isnan().all()
    assert pad_scored([without]).entropy is None
    assert found.to("cpu").repeat is not None
