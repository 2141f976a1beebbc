"""What holds for every method: the properties of trust-region credit, over the whole space of methods.

A method is drawn from everything `CreditConfig` can say, and from the presets; a batch from everything that can happen:
empty and one-token turns, turns with nothing between them, cut-off ones, invalid scores, no teacher, nothing but
guidance, bfloat16. A new kind or setting is drawn as soon as it exists, or fails here until `SETTINGS` knows it.
Properties that need exact expectations (6, 8, 10) are in test_expectations.py.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.credit import KINDS, PRESETS, ClipOutliers, CreditConfig, ProximalOutliers, assign_credit
from trpd_agents.credit.config import EntropyOutliers, SampledEstimator
from trpd_agents.credit.rules import fixed
from trpd_agents.distributed import World
from trpd_agents.learner.normalisers import Normalisers
from trpd_agents.learner.streams import stream_losses

QUICK = settings(deadline=None, max_examples=120, derandomize=True)
INF, NAN = math.inf, math.nan
V, TOP = 6, 3  # vocabulary; top tokens that conftest's batches carry

# ---- methods -------------------------------------------------------------------------------------


def between(low, high):
    return lambda rng: rng.uniform(low, high)


def one_of(*values):
    return lambda rng: rng.choice(values)


def or_never(draw):
    return lambda rng: INF if rng.random() < 0.2 else draw(rng)


flag, few, share, nats = one_of(False, True), one_of(1, 2, 3), between(0, 1), between(0, 4)
SETTINGS: dict[str, Callable[[random.Random], Any]] = {  # by name, or by kind and name
    "slack": lambda rng: rng.choice([0.0, rng.uniform(0, 2), INF]),
    "floor": between(-5, 0),
    "mix": between(0.05, 0.95),
    "scaled": flag,
    "top_k": few,
    "tail": flag,
    "renormalise": flag,
    "gradient": one_of("direct", "score"),
    "entropy.threshold": between(0, 2),
    "min_tokens": one_of(1, 1, 2),
    "enter": share,
    "leave": share,  # of enter
    "thresholds": one_of("value", "value", "quantile"),
    "window": few,
    "outside_weight": one_of(0.0, 0.25),
    "leak": share,
    "steepness": nats,
    "patience": few,
    "evidence": flag,
    "occupancy.budget": or_never(nats),
    "form": one_of("hard", "soft"),
    "forget": between(0.1, 1),
    "delta": share,
    "eps": between(1e-3, 1),
    "decay": between(0.1, 1),
    "share": share,
    "max_divergence.threshold": or_never(nats),
    "beta": between(1e-3, 1),
    "turns": few,
    "schedule": one_of("cosine", "constant"),
    "until": between(0.1, 1),
    "rescue.budget": few,
    "every": few,
    "probe.threshold": nats,
    "start": few,
}


def any_choice(rng, part, kind):
    cls = KINDS[part][kind]
    names = [field.name for field in dataclasses.fields(cls) if field.name != "kind"]
    values = {name: SETTINGS[f"{kind}.{name}" if f"{kind}.{name}" in SETTINGS else name](rng) for name in names}
    if "leave" in values:
        values["leave"] *= values["enter"]
    if values.get("renormalise"):
        values["tail"] = False
    return cls(kind=kind, **values)


def _preset(config):
    """Presets read more top tokens than the batches here carry."""
    forward = config.forward_kl
    return dataclasses.replace(config, outlier=dataclasses.replace(forward, top_k=TOP)) if forward else config


PRESET_METHODS = [_preset(preset.config) for preset in PRESETS.values()]


def any_method(rng, **only):
    """A method whose parts are of the kinds named in `only`, as `rule=["stop", "leaky"]`; a preset now and then."""
    allowed = {part: only.get(part, list(kinds)) for part, kinds in KINDS.items()}
    presets = [c for c in PRESET_METHODS if all(getattr(c, part).kind in kinds for part, kinds in allowed.items())]
    if presets and rng.random() < 0.2:
        return rng.choice(presets)
    parts = {part: any_choice(rng, part, rng.choice(kinds)) for part, kinds in allowed.items()}
    if isinstance(parts["outlier"], ClipOutliers | ProximalOutliers):
        parts["estimator"] = SampledEstimator()
    return CreditConfig(**parts)


def every(part, *but):
    return [kind for kind in KINDS[part] if kind not in but]


# ---- batches -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """A trajectory: its name, and each turn as the arguments of conftest's `Played`."""

    id: int
    turns: list[dict]
    available: bool = True
    success: bool = True


@dataclasses.dataclass
class Batch:
    rows: list[Row]
    recent: torch.Tensor | None = None
    dtype: torch.dtype = torch.float32

    def __getitem__(self, rows):
        return dataclasses.replace(self, rows=[self.rows[b] for b in rows])


def score(rng, *invalid):
    return rng.choice(invalid) if rng.random() < 0.08 else rng.choice([rng.uniform(-4, 0), -0.5, -0.25])


def turn_of(rng, n):
    return {
        "ls": [score(rng, NAN, -INF) for _ in range(n)],
        "lt": [score(rng, NAN, -INF, INF) for _ in range(n)],
        "gap": rng.choice([0, 1, 2]),
        "author": rng.choice(["student", "student", "student", "teacher"]),
        "ok": rng.random() < 0.8,
        "complete": rng.random() < 0.9,
        "repeat": rng.random() < 0.2,
        "entropy": rng.choice([0.0, 0.5, 2.0, NAN]),
    }


def any_batch(rng, shape):
    """`shape`: the length of each turn of each trajectory, in tokens."""
    rows = [
        Row(rng.randint(-9, 9), [turn_of(rng, n) for n in turns], rng.random() < 0.85, rng.random() < 0.5)
        for turns in shape
    ]
    recent = rng.choice([None, torch.tensor([rng.random() for _ in range(4)])])
    return Batch(rows, recent, rng.choice([torch.float32, torch.float32, torch.bfloat16]))


@dataclasses.dataclass
class Case:
    batch: Batch
    config: CreditConfig
    rng: random.Random  # for whatever else a test needs


shapes = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 4]), max_size=6), min_size=1, max_size=3)


def cases(batch=any_batch, **only):
    """A batch and a method. Hypothesis draws the shape and a seed, and can make both smaller; what fills them comes
    from the generator of the two together: drawn one by one, settings repeat and most kinds are hardly ever seen."""

    def draw(shape, seed):
        rng = random.Random(f"{seed} {shape}")
        return Case(batch(rng, shape), any_method(rng, **only), rng)

    return st.builds(draw, shapes, st.integers(0, 2**32 - 1))


def ordinal(scored):
    """The token's number among its trajectory's action and guided tokens, from 1; 0 on all others."""
    written = scored.action | scored.guided
    return torch.where(written, written.to(torch.int64).cumsum(1), 0)


@pytest.fixture(scope="session")
def made(build_batch, turn_type):
    """`made(batch, **build's options)`: with top tokens of which some are ruled out and some are no numbers."""

    def make(batch, **options):
        scored = build_batch(
            [[turn_type(**turn) for turn in row.turns] for row in batch.rows],
            ids=[row.id for row in batch.rows],
            available=[row.available for row in batch.rows],
            success=[row.success for row in batch.rows],
            dtype=batch.dtype,
            **options,
        )
        number = ordinal(scored)
        scored.top_lt[..., 1][number % 3 == 2] = -INF
        scored.top_lt[..., 2][number % 5 == 4] = NAN
        return scored

    return make


# ---- the learner ---------------------------------------------------------------------------------


def totals(scored, credit):
    rows = [SimpleNamespace(authored=lambda author, row=row: row.numpy()) for row in scored.guided]
    return Normalisers.of(World(), rows, credit, range(len(rows)))


def learn(scored, config, credit, normalisers=None, *, same=False, clip_ratio=None, garbage=NAN):
    """Loss in float64 and its gradient by the student's logits `[B, T, V]`.

    Logits and the teacher's distribution (`same`: the student's) are functions of the token's name, some tokens ruled
    out by the teacher; elsewhere is garbage.
    """
    normalisers = normalisers or totals(scored, credit)
    number = ordinal(scored)
    name = 1.7 * scored.trajectory_id[:, None, None] + 2.3 * number[..., None] + 0.9 * torch.arange(V)
    logits = (2 * torch.sin(name.double())).requires_grad_()
    teacher = logits.detach() if same else 2 * torch.cos(1.3 * name.double())
    if not same:
        teacher = torch.where((number % 4 == 3)[..., None] & (torch.arange(V) == 2), -INF, teacher)
    teacher = torch.where(number[..., None] > 0, teacher.log_softmax(-1), garbage)
    token = torch.where(number > 0, (5 * number + scored.trajectory_id[:, None]) % V, -100)
    unit = credit.turn_unit.flatten()
    loss, _ = stream_losses(
        logits.flatten(0, 1),
        token.flatten(),
        scored.ls.flatten(),
        normalisers.rescale(credit.policy_weight.flatten(), unit),
        credit.score.flatten(),
        normalisers.rescale(credit.forward_kl_weight.flatten(), unit),
        credit.imitation_weight.flatten(),
        estimator=config.estimator,
        forward=config.forward_kl,
        normaliser=normalisers.tokens,
        guided_normaliser=normalisers.guided_tokens,
        top_ids=scored.top_ids.flatten(0, 1),
        top_lt=scored.top_lt.flatten(0, 1),
        teacher_logprobs=teacher.flatten(0, 1),
        clip_ratio=clip_ratio,
    )
    loss.backward()
    return loss.detach(), logits.grad


WEIGHTS = ("policy_weight", "forward_kl_weight", "imitation_weight")
TOKEN_FIELDS = (*WEIGHTS, "score", "normaliser_weight", "turn_unit", "reason")
TURN_FIELDS = ("turn_weight", "turn_divergence", "turn_counts")


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def of_row(values, scored, b):
    """`values` at trajectory b's action and guided tokens, in order: what padding may not move."""
    return values[b][(scored.action | scored.guided)[b]].double()


# ---- 1 -------------------------------------------------------------------------------------------


def without_bounds(config):
    """The method with every bound out of reach."""
    limits = {"slack": INF, "enter": INF, "thresholds": "value", "budget": INF, "decay": 1.0, "share": 1.0}
    limits |= {"threshold": INF}
    if isinstance(config.outlier, EntropyOutliers):
        config = dataclasses.replace(config, outlier=dataclasses.replace(config.outlier, threshold=1e9))
    loose = {
        part: dataclasses.replace(choice, **{n: v for n, v in limits.items() if hasattr(choice, n)})
        for part, choice in ((part, getattr(config, part)) for part in ("gate", "rule", "filter"))
    }
    return dataclasses.replace(config, **loose)


# would catch: a gate that rejects at infinite slack, a rule that lowers a turn without a threshold, `inf - inf`
@QUICK
@given(
    cases(
        gate=every("gate", "closed"),
        rule=every("rule", "sod", "tdur"),
        filter=every("filter", "reward_aligned"),
        guidance=["none"],
    )
)
def test_property_01_without_bounds_every_method_is_vanilla_distillation(made, case):
    batch, config = case.batch, without_bounds(case.config)
    scored = made(batch)
    credit = assign_credit(scored, config, recent=batch.recent)
    plain = CreditConfig(estimator=config.estimator, normaliser=config.normaliser)
    vanilla = assign_credit(scored, plain)
    for name in ("policy_weight", "score", "imitation_weight", *TURN_FIELDS[:1]):
        assert torch.equal(getattr(credit, name), getattr(vanilla, name))
    invalid = ~torch.isfinite(scored.lt)  # only these may go to another branch: they have no score
    usable = scored.action & torch.isfinite(scored.ls) & scored.teacher_available[:, None]
    assert not credit.forward_kl_weight[~invalid].any() and not credit.imitation_weight.any()
    learnt = ~invalid | (torch.isneginf(scored.lt) & config.exact)
    assert torch.equal(credit.policy_weight, (usable & learnt).float())
    exact = (scored.lt.float() - scored.ls.float())[usable & ~invalid]
    assert torch.equal(credit.score[usable & ~invalid], exact)
    if not credit.forward_kl_weight.any():
        for found, expected in zip(learn(scored, config, credit), learn(scored, plain, vanilla), strict=True):
            assert torch.equal(found, expected)


# ---- 2 -------------------------------------------------------------------------------------------


# would catch: a mask multiplied instead of chosen (0 * inf), a turn index read outside actions, counts of prompt tokens
@QUICK
@given(cases())
def test_property_02_nothing_outside_actions_and_guidance_is_weighted_or_matters(made, case):
    batch, config, garbage = case.batch, case.config, case.rng.choice([-INF, 1e30, 0.0])
    plain, dirty = (made(batch, pad_left=1, pad_right=2, pad_turns=2, garbage=g) for g in (NAN, garbage))
    nobody = ~(plain.action | plain.guided)
    dirty.turn[nobody] = 10**6
    dirty.top_ids[nobody] = 10**6
    for b, row in enumerate(batch.rows):  # turns that were never played
        dirty.ok[b, len(row.turns) :] = False
        dirty.complete[b, len(row.turns) :] = False
        dirty.repeat[b, len(row.turns) :] = True
    one, two = (assign_credit(scored, config, recent=batch.recent) for scored in (plain, dirty))
    for name in TOKEN_FIELDS:
        value = getattr(one, name)
        assert torch.equal(value, getattr(two, name))
        assert not value[nobody].any() and torch.isfinite(value).all()
    assert not one.policy_weight[~plain.action].any() and not one.forward_kl_weight[~plain.action].any()
    assert not one.imitation_weight[~plain.guided].any()
    assert one.counts == two.counts
    found = learn(plain, config, one), learn(dirty, config, two, garbage=garbage)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not found[0][1][nobody].any()


# ---- 3 -------------------------------------------------------------------------------------------


# would catch: random numbers keyed by position or row, thresholds or normalisers taken from the part at hand
@QUICK
@given(cases())
def test_property_03_padding_order_and_split_change_neither_weights_nor_loss(made, case):
    batch, config, rng = case.batch, case.config, case.rng
    keys = {"step": 3, "seed": 5, "recent": batch.recent}
    scored = made(batch)
    whole = assign_credit(scored, config, **keys)
    loss, gradient = learn(scored, config, whole)

    order = rng.sample(range(len(batch.rows)), len(batch.rows))
    cuts = sorted(rng.choices(range(len(order) + 1), k=2))
    parts = [list(order[i:j]) for i, j in itertools.pairwise([0, *cuts, len(order)])]
    cut = []
    for rows in parts:
        part = made(batch[rows], pad_left=rng.randint(0, 4), pad_right=rng.randint(0, 4), pad_turns=rng.randint(0, 2))
        cut.append((rows, part, assign_credit(part, config, **keys)))
    sums = [totals(part, credit) for _, part, credit in cut]
    normalisers = Normalisers(
        sum(s.tokens for s in sums), sum(s.turns for s in sums), whole.turn_share, sum(s.guided_tokens for s in sums)
    )
    added = torch.zeros((), dtype=torch.float64)
    for rows, part, credit in cut:
        lost, slope = learn(part, config, credit, normalisers)
        added += lost
        for at, b in enumerate(rows):
            for name in TOKEN_FIELDS:
                close(of_row(getattr(credit, name), part, at), of_row(getattr(whole, name), scored, b))
            K = len(batch.rows[b].turns)
            for name in TURN_FIELDS:
                close(getattr(credit, name)[at, :K].double(), getattr(whole, name)[b, :K].double())
            close(of_row(slope, part, at), of_row(gradient, scored, b))
    close(added, loss)


# ---- 4 -------------------------------------------------------------------------------------------


# would catch: a weight that reads the turn it weighs (or any later one), a minimum or mean over the whole trajectory
@QUICK
@given(cases(rule=every("rule", "tdur"), filter=["none"]))
def test_property_04_later_turns_do_not_reach_back(made, case):
    config, batch, rng = case.config, case.batch[[0]], case.rng
    batch.rows[0].available = True
    turns, others = batch.rows[0].turns, [turn_of(rng, rng.randint(0, 4)) for _ in range(rng.randint(0, 4))]
    k = rng.randint(0, len(turns))
    changed = dataclasses.replace(batch, rows=[dataclasses.replace(batch.rows[0], turns=turns[:k] + others)])
    one, two = made(batch), made(changed)
    a, b = (assign_credit(scored, config, step=1, recent=batch.recent) for scored in (one, two))
    n = sum(len(turn["ls"]) for turn in turns[:k])
    for name in TOKEN_FIELDS:
        close(of_row(getattr(a, name), one, 0)[:n], of_row(getattr(b, name), two, 0)[:n])
    kept = k if config.rule.kind == "sod" else k + 1  # `sod` looks at the turn itself; the others do not even do that
    assert torch.equal(a.turn_weight[0, :kept][: len(others) + k], b.turn_weight[0, :kept][: len(turns)])


# ---- 5 -------------------------------------------------------------------------------------------


# would catch: a slack with the wrong sign, new random numbers for a new slack, outliers weighed by what is trusted
@QUICK
@given(cases(gate=["bernoulli", "soft", "threshold"]))
def test_property_05_more_slack_never_trusts_less(made, case):
    batch, config = case.batch, case.config
    slacks = sorted([case.rng.uniform(0, 3), or_never(between(0, 3))(case.rng)])
    scored = made(batch)
    less, more = (
        assign_credit(
            scored,
            dataclasses.replace(config, gate=dataclasses.replace(config.gate, slack=slack)),
            recent=batch.recent,
        )
        for slack in slacks
    )
    assert torch.equal(less.turn_weight, more.turn_weight)
    assert (less.policy_weight <= more.policy_weight).all()
    assert (less.forward_kl_weight >= more.forward_kl_weight).all()
    # what is bounded from below comes down to the log ratio itself
    assert (less.score >= more.score - 1e-5).all()


# ---- 7 -------------------------------------------------------------------------------------------


def trusts_a_perfect_student(config):
    """`position`, `random` and `tdur` weigh turns that agree too; the teacher's surprise is above 0 in agreement."""
    reads_divergence = config.rule.kind in ("stop", "leaky", "hysteresis", "sod") or config.filter.kind != "none"
    return config.divergence.kind != "teacher_logprob" or not reads_divergence


# would catch: a gate that draws `<=`, a divergence that is not 0 in agreement, a threshold of 0 that agreement crosses
@QUICK
@given(
    cases(gate=every("gate", "closed"), rule=every("rule", "tdur", "position", "random")).filter(
        lambda case: trusts_a_perfect_student(case.config)
    )
)
def test_property_07_a_student_equal_to_its_teacher_is_trusted_everywhere(made, case):
    batch, config = case.batch, case.config
    for turn in itertools.chain(*(row.turns for row in batch.rows)):
        turn["lt"] = turn["ls"]
    scored = made(batch)
    credit = assign_credit(scored, config, recent=batch.recent)
    there = scored.teacher_available[:, None]
    usable = scored.action & torch.isfinite(scored.ls) & there
    assert torch.equal(credit.policy_weight, usable.float())
    assert torch.equal(credit.turn_weight, there.expand_as(credit.turn_weight).float())
    assert not credit.score.any()
    assert credit.counts["acceptance"] == bool(usable.any())
    if config.outlier.kind != "entropy":  # which looks at the teacher alone
        assert not credit.forward_kl_weight.any()


# would catch: an exact divergence with a gradient at its minimum, a bounded score that is not 0 at ratio 1
@QUICK
@given(cases())
def test_property_07_there_is_no_reverse_kl_gradient_where_the_two_agree(made, case):
    batch, config = case.batch, case.config
    for turn in itertools.chain(*(row.turns for row in batch.rows)):
        turn["lt"] = turn["ls"]
    scored = made(batch)
    credit = assign_credit(scored, config, recent=batch.recent)
    none = torch.zeros_like(credit.policy_weight)
    alone = dataclasses.replace(credit, forward_kl_weight=none, imitation_weight=none)
    loss, gradient = learn(scored, config, alone, same=True)
    assert loss.abs() < 1e-5 and (not gradient.numel() or gradient.abs().max() < 1e-5)


# ---- 9 -------------------------------------------------------------------------------------------


def long_episode(rng, shape):
    """One trajectory of one-token turns with few different log ratios, so that turns agree in a row and ties happen."""
    turns = [
        {
            "ls": [-1.0],
            "lt": [-1.0 + rng.choice([-4.0, -0.4, -0.05, 0.0, 0.0])],
            "ok": rng.random() < 0.8,
            "repeat": rng.random() < 0.2,
            "complete": rng.random() < 0.85,
            "author": rng.choice(["student"] * 6 + ["teacher"]),
        }
        for _ in range(rng.randint(4, 12))
    ]
    return Batch([Row(0, turns)])


# would catch: a ratio that is not the telescoped one, a turn that does not count taken as first or as a factor
@QUICK
@given(cases(long_episode, rule=["sod"], filter=["none"]))
def test_property_09_sod_is_the_product_of_adjacent_ratios(made, case):
    batch, config = case.batch, case.config
    credit = assign_credit(made(batch), config)
    rule, product, before = config.rule, 1.0, None
    for k, counts in enumerate(credit.turn_counts[0].tolist()):
        weight = credit.turn_weight[0, k].item()
        if not counts:
            assert weight == 1
            continue
        divergence = max(credit.turn_divergence[0, k].item(), 0) + rule.eps
        product *= 1 if before is None else before / divergence
        before = divergence
        assert weight == pytest.approx(min(product, 1 + rule.delta), rel=1e-4)


# would catch: a range taken over turns that do not count, a division by an empty range
@QUICK
@given(cases(long_episode, rule=["tdur"]) | cases(rule=["tdur"]))
def test_property_09_tdur_lies_between_0_and_1(made, case):
    weight = assign_credit(made(case.batch), case.config).turn_weight
    assert ((weight >= 0) & (weight <= 1)).all()


def test_property_09_hysteresis_returns_only_with_evidence_and_never_chatters(made):
    seen = {"left": 0, "returned": 0, "stayed": 0}

    # would catch: evidence or repeats ignored, `leave` and `enter` exchanged or compared with the wrong turn
    @settings(QUICK, max_examples=150)
    @given(cases(long_episode, rule=["hysteresis"], filter=["none"]))
    def check(case):
        batch, config, recent = case.batch, case.config, torch.linspace(0, 1, 21)
        scored = made(batch)
        credit = assign_credit(scored, config, recent=recent)
        rule, w = fixed(config.rule, recent), credit.turn_weight[0].tolist()
        for k in range(len(w) - 1):
            divergence, counts = credit.turn_divergence[0, k].item(), bool(credit.turn_counts[0, k])
            believed = bool(scored.ok[0, k] & ~scored.repeat[0, k]) or not rule.evidence
            if w[k] < w[k + 1]:
                assert counts and divergence <= rule.leave + 1e-7 and believed and k >= rule.patience
                seen["returned"] += 1
            if w[k] > w[k + 1]:
                assert counts and divergence > rule.enter - 1e-7
                seen["left"] += 1
            if counts and rule.leave + 1e-7 < divergence < rule.enter - 1e-7:
                assert w[k] == w[k + 1]
                seen["stayed"] += 1

    check()
    assert min(seen.values()) >= 10, seen  # the examples went through all three


# ---- 11 ------------------------------------------------------------------------------------------


# would catch: `0 * inf`, the logarithm of a ruled-out token, a NaN in a branch not taken that poisons the gradient
@QUICK
@given(cases())
def test_property_11_loss_and_gradient_are_finite_whatever_the_teacher_says(made, case):
    batch, config, clip_ratio = case.batch, case.config, case.rng.choice([None, 0.2])
    scored = made(batch)
    credit = assign_credit(scored, config, recent=batch.recent)
    loss, gradient = learn(scored, config, credit, clip_ratio=clip_ratio)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    for name in ("policy_weight", "forward_kl_weight", "imitation_weight", "score", "turn_weight"):
        assert torch.isfinite(getattr(credit, name)).all()
    assert all(math.isfinite(value) for value in credit.counts.values())


MASKED = {
    "no trajectory": None,
    "no teacher": lambda row, turn: setattr(row, "available", False),
    "no token": lambda row, turn: turn.update(ls=[], lt=[]),
    "no student score": lambda row, turn: turn.update(author="student", ls=[NAN] * len(turn["ls"])),
}


# would catch: a division by 0 tokens, a loss of no terms that has no graph for `backward`
@pytest.mark.parametrize("cause", MASKED)
def test_property_11_with_everything_masked_the_loss_is_a_zero_attached_to_the_graph(cause, made):
    @settings(QUICK, max_examples=25)
    @given(cases())
    def check(case):
        batch, config = case.batch, case.config
        batch.rows = batch.rows if MASKED[cause] else []
        for row in batch.rows:
            for turn in row.turns:
                MASKED[cause](row, turn)
        scored = made(batch)
        credit = assign_credit(scored, config, recent=batch.recent)
        assert not any(getattr(credit, name).any() for name in WEIGHTS)
        loss, gradient = learn(scored, config, credit)  # calls `backward`
        assert loss == 0 and gradient is not None and not gradient.any()

    check()


# ---- 12 ------------------------------------------------------------------------------------------


# would catch: a sum where a mean belongs, a normaliser of its own stream only, a denominator that counts trajectories
@QUICK
@given(cases())
def test_property_12_repeating_every_trajectory_changes_neither_loss_nor_gradient(made, case):
    batch, config, times = case.batch, case.config, case.rng.randint(2, 3)
    B = len(batch.rows)
    scored, repeated = made(batch), made(batch[list(range(B)) * times])
    results = []
    for each in (scored, repeated):
        results.append(learn(each, config, assign_credit(each, config, recent=batch.recent)))
    (loss, gradient), (again, copies) = results
    close(again, loss)
    close(copies.unflatten(0, (times, B)).sum(0), gradient)
