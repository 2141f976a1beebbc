"""Shop: buy the cheapest product of a kind and colour that has the ordered features.

Rules: `search` lists the products of a kind with their prices, `filter` narrows what is listed to a colour, and
`inspect` shows a product's colour and features. A product that was inspected can be bought.
Success: the ordered product is bought; any other purchase ends the episode as a failure. Horizon: a search, a filter,
an inspection of each product of that colour up to the right one in the order of prices, and the purchase.
What is hard: only inspecting tells the features, cheaper products differ from the order in one of them, dearer ones and
those of another colour may have them all, and a purchase cannot be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from trpd_envs.base import check_int
from trpd_envs.keychain import WORDS
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

KINDS = ("bag", "chair", "clock", "desk", "lamp", "mug")
COLOURS = ("black", "blue", "green", "red", "white")
FEATURES = {
    "material": ("leather", "oak", "plastic", "steel"),
    "origin": ("Chile", "Ghana", "Japan", "Spain"),
    "size": ("large", "medium", "small", "tiny"),
    "warranty": ("none", "1 year", "2 years", "5 years"),
}
_MOST_PRODUCTS = 16  # of a kind


class Product(NamedTuple):
    """One line of the catalogue; `features` by their names."""

    name: str
    kind: str
    colour: str
    price: int
    features: dict[str, str]


@dataclass
class _Known:
    """What a player has seen: the kinds that were searched, if the filter was used on the ordered ones, what was
    inspected, and what the present list is of."""

    searched: set[str] = field(default_factory=set)
    filtered: bool = False
    inspected: set[str] = field(default_factory=set)
    listed: str = ""


class Shop(ToolEnv):
    """See the module's docstring.

    Knobs: `products` of each kind 2 to 16, half of them, rounded up, of the ordered colour; `kinds` 1 to 6; `wanted`
    features in the order 1 to 4; `max_turns` at least as many as half of the products and 3 (4 more by default).
    """

    instructions = (
        "Buy the ordered product: the cheapest that has all the order asks for. Inspect before you buy. Call one "
        "tool each turn."
    )
    in_process = True

    def __init__(self, products: int = 8, kinds: int = 3, wanted: int = 2, max_turns: int | None = None):
        self.n_products = check_int("products", products, 2, _MOST_PRODUCTS)
        self.n_kinds = check_int("kinds", kinds, 1, len(KINDS))
        self.n_wanted = check_int("wanted", wanted, 1, len(FEATURES))
        self.n_right = (products + 1) // 2
        needed = self.n_right + 3
        super().__init__(needed + 4 if max_turns is None else check_int("max_turns", max_turns, needed))

    def start(self) -> str:
        rng = self.python_random()
        self.kinds = rng.sample(KINDS, self.n_kinds)
        self.kind, self.colour = self.kinds[0], rng.choice(COLOURS)
        names = rng.sample(sorted(FEATURES), self.n_wanted)
        self.order = {name: rng.choice(FEATURES[name]) for name in names}
        self._draw(rng)
        self.listing: list[Product] = []
        self.known = _Known()
        asked = " and ".join(f"{name} {value}" for name, value in self.order.items())
        return f"Order: the cheapest {self.colour} {self.kind} with {asked}. Kinds: {', '.join(sorted(self.kinds))}."

    def hint(self) -> str:
        return f"The right product is {self.right}."

    def view(self) -> str:
        listed = ", ".join(f"{product.name} {product.price}" for product in self.listing)
        return f"Listed: {listed}." if listed else "Nothing is listed."

    @tool
    def search(self, kind: str) -> str:
        """List the products of a kind."""
        if kind not in self.kinds:
            raise ToolError("No such kind.")
        self.listing = [product for product in self.catalogue.values() if product.kind == kind]
        self.known.searched.add(kind)
        self.known.listed = kind
        return self.view()

    @tool
    def filter(self, colour: str) -> str:
        """Of the kind that is listed, list those of a colour."""
        found = self._of(self.known.listed, colour)
        if not found:
            raise ToolError("None of that colour." if self.listing else "Search first.")
        self.listing = found
        if (self.known.listed, colour) == (self.kind, self.colour):
            self.known.filtered = True
        return self.view()

    @tool
    def inspect(self, product: str) -> str:
        """Show a product that was listed."""
        found = self.catalogue.get(product)
        if found is None or found.kind not in self.known.searched:
            raise ToolError("No such product was listed.")
        self.known.inspected.add(product)
        features = ", ".join(f"{name} {value}" for name, value in found.features.items())
        return f"{product}: {found.colour} {found.kind}, price {found.price}, {features}."

    @tool
    def buy(self, product: str) -> str:
        """Buy a product that was inspected; this ends the task."""
        if product not in self.known.inspected:
            raise ToolError("Inspect it first.")
        self.finish(product == self.right)
        return "That was the one." if self.success else "That was not the one."

    def expert(self) -> str | None:
        """The next call of a player who inspects from the cheapest on until one is right.

        It is chosen by what was seen alone. None when that would take more than the turns left, and after the end.
        """
        if self.over:
            return None
        for use_filter in (True, False):  # at the end of the turns the filter may cost the one that is missing
            calls = self._play_out(use_filter)
            if len(calls) <= self.turns_left:
                return calls[0]
        return None

    def optimal_actions(self) -> list[str]:
        """The expert's action: who knows what was seen and no more gains nothing by another."""
        action = self.expert()
        return [] if action is None else [action]

    def legal_actions(self) -> list[str]:
        """Searching each kind, each filter that leaves something, inspecting and buying whatever can be."""
        if self.over:
            return []
        seen = [name for name, product in self.catalogue.items() if product.kind in self.known.searched]
        return [
            *(format_call("search", kind=kind) for kind in self.kinds),
            *(format_call("filter", colour=colour) for colour in COLOURS if self._of(self.known.listed, colour)),
            *(format_call("inspect", product=name) for name in seen),
            *(format_call("buy", product=name) for name in seen if name in self.known.inspected),
        ]

    def _draw(self, rng: Random) -> None:
        """A catalogue in random order.

        Of the ordered kind and colour, those cheaper than the right one lack one feature of the order each; of all
        others, every second has all of them.
        """
        names = iter(rng.sample(WORDS, self.n_products * self.n_kinds))
        products = []
        for kind in self.kinds:
            prices = sorted(rng.sample(range(10, 100), self.n_products))
            places = sorted(rng.sample(range(self.n_products), self.n_right))  # of the ordered colour, by price
            right = places[rng.randrange(self.n_right)] if kind == self.kind else -1
            for place, price in enumerate(prices):
                matches = place in places
                colour = self.colour if matches else rng.choice([c for c in COLOURS if c != self.colour])
                features = {name: rng.choice(values) for name, values in FEATURES.items()}
                if place == right or rng.randrange(2) or matches and place < right:
                    features |= self.order
                if matches and place < right:
                    lacking = rng.choice(list(self.order))
                    features[lacking] = rng.choice([v for v in FEATURES[lacking] if v != self.order[lacking]])
                products.append(Product(next(names), kind, colour, price, features))
                if place == right:
                    self.right = products[-1].name
        rng.shuffle(products)
        self.catalogue = {product.name: product for product in products}

    def _of(self, kind: str, colour: str) -> list[Product]:
        return [p for p in self.catalogue.values() if (p.kind, p.colour) == (kind, colour)]

    def _is_ordered(self, product: Product) -> bool:
        return product.colour == self.colour and product.features.items() >= self.order.items()

    def _play_out(self, use_filter: bool) -> list[str]:
        """The calls from here to the purchase, each chosen by what is known when it is made."""
        known = _Known(set(self.known.searched), self.known.filtered, set(self.known.inspected), self.known.listed)
        calls: list[str] = []
        while not calls or '"buy"' not in calls[-1]:
            calls.append(self._next(known, use_filter))
        return calls

    def _next(self, known: _Known, use_filter: bool) -> str:
        """The next call of a player who knows `known`, which is brought up to date as if the call had been made."""
        if self.kind not in known.searched:
            return self._search(known)
        possible = [
            product
            for product in self.catalogue.values()
            if product.kind == self.kind
            and (self._is_ordered(product) if product.name in known.inspected else True)
            and (product.colour == self.colour or not known.filtered)
        ]
        cheapest = min(possible, key=lambda product: product.price)
        if cheapest.name in known.inspected:
            return format_call("buy", product=cheapest.name)
        if use_filter and not known.filtered:
            if known.listed != self.kind:
                return self._search(known)
            known.filtered = True
            return format_call("filter", colour=self.colour)
        known.inspected.add(cheapest.name)
        return format_call("inspect", product=cheapest.name)

    def _search(self, known: _Known) -> str:
        known.searched.add(self.kind)
        known.listed = self.kind
        return format_call("search", kind=self.kind)
