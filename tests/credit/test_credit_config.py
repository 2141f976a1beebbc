import ast
import dataclasses
import math
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

import trpd_agents.credit
from trpd_agents.credit import (
    KINDS,
    PRESETS,
    RULES,
    BernoulliGate,
    ClipOutliers,
    CreditConfig,
    Divergence,
    EntropyOutliers,
    ForwardKLOutliers,
    FullEstimator,
    HysteresisRule,
    LeakyRule,
    MaxDivergenceFilter,
    OccupancyRule,
    PositionRule,
    PrefixGuidance,
    ProximalOutliers,
    RandomRule,
    RewardAlignedFilter,
    SodRule,
    SoftGate,
    StopRule,
    ThresholdGate,
    TopKEstimator,
    TurnMeanNormaliser,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BernoulliGate(slack=NAN), "bernoulli.slack: found nan"),
        (lambda: SoftGate(slack=-0.1), "soft.slack: found -0.1, wanted a number >= 0"),
        (lambda: ThresholdGate(slack="1"), "threshold.slack: found '1'"),
        (lambda: ClipOutliers(floor=0.5), "clip.floor: found 0.5"),
        (lambda: ClipOutliers(floor=-INF), "clip.floor: found -inf"),
        (lambda: ForwardKLOutliers(top_k=0), "forward_kl.top_k: found 0, wanted a whole number >= 1"),
        (lambda: ForwardKLOutliers(top_k=2.5), "forward_kl.top_k: found 2.5"),
        (lambda: Divergence(min_tokens=0), "divergence.min_tokens: found 0"),
        (lambda: Divergence(kind="kv"), "divergence.kind: found 'kv', wanted one of tv"),
        (lambda: SoftGate(kind="bernoulli"), "SoftGate.kind: found 'bernoulli', wanted one of soft"),
        (lambda: OccupancyRule(budget=-1), "occupancy.budget: found -1"),
        (lambda: OccupancyRule(forget=0), "occupancy.forget: found 0, wanted a number > 0 and <= 1"),
        (lambda: OccupancyRule(forget=1.1), "occupancy.forget: found 1.1"),
        (lambda: OccupancyRule(form="firm"), "occupancy.form: found 'firm', wanted one of hard, soft"),
        (lambda: HysteresisRule(enter=-1), "hysteresis.enter: found -1"),
        (lambda: HysteresisRule(enter=0.1, leave=0.2), "hysteresis.leave: found 0.2, wanted at most hysteresis.enter"),
        (lambda: HysteresisRule(patience=0), "hysteresis.patience: found 0"),
        (lambda: HysteresisRule(outside_weight=2), "hysteresis.outside_weight: found 2"),
        (lambda: PrefixGuidance(beta=-1e-3), "prefix.beta: found -0.001"),
        (lambda: PrefixGuidance(beta=INF), "prefix.beta: found inf"),
        (lambda: PrefixGuidance(turns=0), "prefix.turns: found 0"),
        (lambda: FullEstimator(kind="exact"), "FullEstimator.kind: found 'exact', wanted one of full"),
        (lambda: TopKEstimator(top_k=0), "top_k.top_k: found 0, wanted a whole number >= 1"),
        (lambda: ProximalOutliers(mix=0), "proximal.mix: found 0, wanted a number > 0 and <= 1"),
        (lambda: ProximalOutliers(mix=1), "proximal.mix: found 1, wanted less"),
        (lambda: ForwardKLOutliers(tail=True, renormalise=True), "forward_kl.tail: found true together with"),
        (lambda: ForwardKLOutliers(gradient="both"), "forward_kl.gradient: found 'both', wanted one of direct, score"),
        (lambda: EntropyOutliers(threshold=-1), "entropy.threshold: found -1"),
        (lambda: StopRule(outside_weight=1.5), "stop.outside_weight: found 1.5"),
        (lambda: StopRule(thresholds="share"), "stop.thresholds: found 'share', wanted one of value, quantile"),
        (lambda: StopRule(enter=1.5, thresholds="quantile"), "stop.enter: found 1.5"),
        (lambda: StopRule(window=0), "stop.window: found 0"),
        (lambda: LeakyRule(leak=1.1), "leaky.leak: found 1.1"),
        (lambda: LeakyRule(steepness=-1), "leaky.steepness: found -1"),
        (lambda: SodRule(eps=0), "sod.eps: found 0, wanted a number > 0"),
        (lambda: SodRule(delta=-0.1), "sod.delta: found -0.1"),
        (lambda: PositionRule(decay=0), "position.decay: found 0"),
        (lambda: RandomRule(share=2), "random.share: found 2"),
        (lambda: MaxDivergenceFilter(threshold=-1), "max_divergence.threshold: found -1"),
        (lambda: TurnMeanNormaliser(share=1.5), "turn_mean.share: found 1.5"),
        (
            lambda: CreditConfig(outlier=ClipOutliers(), estimator=FullEstimator()),
            "found 'clip' with estimator 'full'",
        ),
        (
            lambda: CreditConfig(outlier=ProximalOutliers(), estimator=TopKEstimator()),
            "found 'proximal' with estimator 'top_k'",
        ),
    ],
)
def test_nonsense_is_refused_by_name_value_and_wish(make, named):
    with pytest.raises(ValueError, match="wanted") as caught:
        make()
    assert named in str(caught.value)


def test_infinity_is_allowed_where_it_means_trust_everything():
    BernoulliGate(slack=INF), SoftGate(slack=INF), ThresholdGate(slack=INF)
    OccupancyRule(budget=INF), HysteresisRule(enter=INF), StopRule(enter=INF), LeakyRule(enter=INF)


def test_reopold_floor_is_the_default_clip():
    assert ClipOutliers().floor == pytest.approx(-2.558, abs=1e-3)


@pytest.mark.parametrize("part", KINDS)
def test_names_lead_to_the_class_of_that_kind(part):
    assert part in {field.name for field in dataclasses.fields(CreditConfig)}
    for name, choice in KINDS[part].items():
        assert choice(kind=name).kind == name


def test_pydantic_reads_nested_dictionaries_into_the_very_same_objects():
    read = TypeAdapter(CreditConfig).validate_python
    assert read({}) == CreditConfig()
    written = {
        "gate": {"kind": "soft", "slack": INF},
        "outlier": {"kind": "forward_kl", "top_k": 8, "tail": True},
        "divergence": {"kind": "tv", "min_tokens": 2},
        "rule": {"kind": "hysteresis", "enter": 0.5, "leave": 0.25, "patience": 3, "evidence": False},
        "filter": {"kind": "reward_aligned"},
        "guidance": {"kind": "prefix", "beta": 0.01, "turns": 6},
        "estimator": {"kind": "full"},
        "normaliser": {"kind": "turn_mean", "share": 0.5},
    }
    assert read(written) == CreditConfig(
        gate=SoftGate(slack=INF),
        outlier=ForwardKLOutliers(top_k=8, tail=True),
        divergence=Divergence(min_tokens=2),
        rule=HysteresisRule(enter=0.5, leave=0.25, patience=3, evidence=False),
        filter=RewardAlignedFilter(),
        guidance=PrefixGuidance(beta=0.01, turns=6),
        estimator=FullEstimator(),
        normaliser=TurnMeanNormaliser(share=0.5),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_being_written_out_and_read_back(name):
    config = PRESETS[name].config
    assert TypeAdapter(CreditConfig).validate_python(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "written",
    [
        {"gates": {"kind": "off"}},
        {"gate": {"kind": "bernouli"}},
        {"gate": {"kind": "bernoulli", "slak": 1}},
        {"gate": {"kind": "off", "slack": 1}},
        {"gate": {"kind": "bernoulli", "slack": "nan"}},
        {"rule": {"kind": "occupancy", "budget": -1}},
        {"rule": {"kind": "hysteresis", "enter": 0.1, "leave": 0.2}},
        {"divergence": {"kind": "tv", "min_tokens": 0}},
        {"outlier": {"kind": "forward_kl", "top_k": 0}},
        {"outlier": {"kind": "forward_kl", "tail": True, "renormalise": True}},
        {"outlier": {"kind": "clip"}, "estimator": {"kind": "full"}},
        {"outlier": {"kind": "proximal"}, "estimator": {"kind": "top_k"}},
        {"rule": {"kind": "stop", "enter": 2, "thresholds": "quantile"}},
        {"estimator": {"kind": "both"}},
    ],
)
def test_pydantic_refuses_what_the_classes_refuse(written):
    with pytest.raises(ValidationError):
        TypeAdapter(CreditConfig).validate_python(written)


@pytest.mark.parametrize("kind", ["occupancy", "hysteresis"])
def test_a_class_chosen_by_kind_gives_one_clear_complaint(kind):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(RULES[kind]).validate_python({"kind": kind, "budgett": 1})
    assert [e["loc"] for e in caught.value.errors()] == [("budgett",)]


def test_presets_are_what_the_method_says():
    tropd, trajectory, opd = (PRESETS[n].config for n in ("tropd", "trajectory", "opd"))
    assert opd == CreditConfig()
    assert tropd == CreditConfig(
        gate=BernoulliGate(slack=0), outlier=ForwardKLOutliers(top_k=64), guidance=PrefixGuidance(beta=1e-3)
    )
    assert trajectory == CreditConfig(rule=OccupancyRule(budget=4, form="hard", forget=1), estimator=FullEstimator())
    assert all(p.summary.endswith(".") for p in PRESETS.values())


def test_credit_can_be_used_alone():
    """It imports the standard library, torch, the trajectory types and the counter-based generator: nothing else."""
    allowed = {"torch", "trpd_agents.trajectory", "trpd_agents.counter_rng"}
    files = sorted(Path(trpd_agents.credit.__file__).parent.rglob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                own = name in allowed or name.split(".")[:2] == ["trpd_agents", "credit"]
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{file.name} imports {name}"
