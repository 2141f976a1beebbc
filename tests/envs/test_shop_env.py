"""The shop: an expert that knows no more than it has seen, a catalogue with traps, and final purchases."""

from __future__ import annotations

import random

from trpd_envs import format_call
from trpd_envs.shop import COLOURS, FEATURES, KINDS, Shop


def call(env: Shop, name: str, **arguments: str) -> tuple[str, bool]:
    observation, _, _, _, info = env.step(format_call(name, **arguments))
    return observation, info["ok"]


def ordered(env: Shop) -> list[str]:
    """The products that have all that is asked for, from the cheapest on."""
    fitting = [
        product
        for product in env.catalogue.values()
        if (product.kind, product.colour) == (env.kind, env.colour) and product.features.items() >= env.order.items()
    ]
    return [product.name for product in sorted(fitting, key=lambda product: product.price)]


def test_the_order_names_one_product_and_the_others_are_near_it() -> None:
    traps = dearer = 0
    for seed in range(100):
        env = Shop()
        opening, info = env.reset(seed=seed)
        fitting = ordered(env)
        assert fitting[0] == env.right and info["hint"] == f"The right product is {env.right}."
        assert f"cheapest {env.colour} {env.kind} with " in opening
        assert all(f"{name} {value}" in opening for name, value in env.order.items())
        right = env.catalogue[env.right]
        for product in env.catalogue.values():
            if product.kind == env.kind and product.colour == env.colour and product.price < right.price:
                assert sum(product.features[name] != value for name, value in env.order.items()) == 1
            elif product.colour != env.colour and product.features.items() >= env.order.items():
                traps += product.kind == env.kind and product.price < right.price
        dearer += len(fitting) > 1
        prices = [product.price for product in env.catalogue.values() if product.kind == env.kind]
        assert len(set(prices)) == len(prices) == 8
        assert sum(p.colour == env.colour for p in env.catalogue.values() if p.kind == env.kind) == 4
    assert traps > 20 and dearer > 40


def test_the_expert_inspects_from_the_cheapest_on_and_buys_the_first_that_fits() -> None:
    env = Shop(products=16, wanted=3)
    lengths = set()
    for seed in range(60):
        env.reset(seed=seed)
        candidates = sorted(env._of(env.kind, env.colour), key=lambda product: product.price)
        names = [product.name for product in candidates]
        upto = names[: names.index(env.right) + 1]
        expected = [format_call("search", kind=env.kind), format_call("filter", colour=env.colour)]
        expected += [format_call("inspect", product=name) for name in upto]
        played = []
        while (action := env.expert()) is not None:
            played.append(action)
            env.step(action)
        assert played == [*expected, format_call("buy", product=env.right)] and env.success
        lengths.add(len(played))
    assert len(lengths) > 5


def test_the_expert_is_moved_by_nothing_it_has_not_seen() -> None:
    """Two shops that look the same so far: whatever was not inspected has other features, and the expert does the
    same."""
    env, other = Shop(max_turns=60), Shop(max_turns=60)
    rng = random.Random(0)
    for seed in range(60):
        env.reset(seed=seed), other.reset(seed=seed)
        for _ in range(seed % 7):
            actions = [action for action in env.legal_actions() if '"buy"' not in action]
            action = rng.choice(actions)
            assert env.step(action) == other.step(action)
        for name, product in other.catalogue.items():
            if name not in other.known.inspected and name != other.right:
                features = {feature: rng.choice(values) for feature, values in FEATURES.items()}
                other.catalogue[name] = product._replace(features=features)
        assert env.expert() == other.expert()


def test_after_any_opening_the_expert_wins_unless_something_was_bought() -> None:
    env = Shop(max_turns=40)
    rng = random.Random(0)
    for seed in range(100):
        env.reset(seed=seed)
        for _ in range(seed % 10):
            env.step(rng.choice([action for action in env.legal_actions() if '"buy"' not in action]))
        while (action := env.expert()) is not None:
            env.step(action)
        assert env.success, seed


def test_with_few_turns_left_the_filter_is_left_out() -> None:
    saved = 0
    for seed in range(80):
        env = Shop(products=4, wanted=1)
        env.reset(seed=seed)
        call(env, "search", kind=env.kind)
        while env.turns_left > 2:
            call(env, "search", kind=env.kind)
        cheapest = min((p for p in env.catalogue.values() if p.kind == env.kind), key=lambda p: p.price)
        assert env.expert() == (format_call("inspect", product=cheapest.name) if cheapest.name == env.right else None)
        saved += cheapest.name == env.right
    assert 5 < saved < 75


def test_what_is_refused_and_what_is_shown() -> None:
    env = Shop(max_turns=100)
    env.reset(seed=0)
    product = env.catalogue[env.right]
    elsewhere = next(p for p in env.catalogue.values() if p.kind != env.kind)
    assert call(env, "filter", colour=env.colour) == ("Search first. Nothing is listed.", False)
    assert call(env, "inspect", product=env.right) == ("No such product was listed. Nothing is listed.", False)
    missing = next(kind for kind in KINDS if kind not in env.kinds)
    assert call(env, "search", kind=missing)[1] is False
    listed, ok = call(env, "search", kind=env.kind)
    assert ok and listed.count(", ") == 7 and f"{env.right} {product.price}" in listed
    assert not any(colour in listed for colour in COLOURS) and elsewhere.name not in listed
    assert call(env, "filter", colour="pink")[1] is False
    narrowed, ok = call(env, "filter", colour=env.colour)
    assert ok and narrowed.count(", ") == 3 and env.right in narrowed
    assert call(env, "inspect", product=elsewhere.name)[1] is False
    assert call(env, "buy", product=env.right)[0].startswith("Inspect it first. Listed: ")
    shown, ok = call(env, "inspect", product=env.right)
    assert ok and shown.startswith(f"{env.right}: {env.colour} {env.kind}, price {product.price}, ")
    assert all(f"{name} {value}" in shown for name, value in product.features.items())
    assert env.step(format_call("buy", product=env.right))[:4] == ("That was the one.", 1.0, True, False)


def test_a_wrong_purchase_is_final() -> None:
    env = Shop()
    env.reset(seed=1)
    call(env, "search", kind=env.kind)
    wrong = next(p.name for p in env.catalogue.values() if p.kind == env.kind and p.name != env.right)
    call(env, "inspect", product=wrong)
    assert env.step(format_call("buy", product=wrong))[:4] == ("That was not the one.", 0.0, True, False)
    assert env.expert() is None and env.legal_actions() == []
