"""KeyChain: follow the keys of one colour to the value at the end of the chain.

Rules: the order names a colour. Looking up a key shows the next keys, each with a colour of its own, and the one of
the ordered colour leads on. After `length` lookups the answer shows values instead of keys; the one of the ordered
colour is to be submitted. A key of another colour leads on just as well, to keys and values that look the same and
are all wrong. Without `undo` only the keys shown last can be looked up, so a wrong hop lasts; with it, every key
seen so far can (the control).
Success: the right value is submitted; any other submission ends the episode as a failure. Horizon: `length` lookups
and one submission.
What is hard: the colour is said once, at the start, and nothing later tells a right hop from a wrong one.
"""

from __future__ import annotations

from itertools import islice
from random import Random

from trpd_envs.base import check_bool, check_int
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

COLOURS = ("red", "blue", "green", "gold", "pink", "grey", "black", "white")
WORDS = (
    "acorn", "anchor", "arrow", "badge", "banjo", "barrel", "basket", "beacon", "bell", "berry", "bottle", "bridge",
    "brush", "bucket", "button", "cabin", "cactus", "camel", "candle", "canoe", "carpet", "castle", "cedar", "chain",
    "cherry", "clock", "cloud", "clover", "comet", "copper", "cotton", "crane", "crown", "daisy", "desert", "dragon",
    "eagle", "ember", "falcon", "fern", "fiddle", "flute", "forest", "fossil", "fox", "frost", "galley", "ginger",
    "glove", "goose", "grape", "guitar", "hammer", "harbor", "hazel", "helmet", "heron", "honey", "island", "ivory",
    "jacket", "jasper", "kettle", "kite", "ladder", "lemon", "lily", "lion", "lotus", "maple", "marble", "meadow",
    "mirror", "moss", "needle", "nest", "oak", "olive", "onion", "otter", "owl", "paddle", "pearl", "pepper",
    "piano", "pillow", "pine", "planet", "plum", "quartz", "rabbit", "raven", "ribbon", "river", "saddle", "salt",
    "shell", "silk", "spider", "spruce", "thorn", "tiger", "tulip", "turtle", "valley", "violet", "walnut", "willow",
)  # fmt: skip


class KeyChain(ToolEnv):
    """See the module's docstring.

    Knobs: `length` lookups from 1, `decoys` wrong notes in each answer from 1 to 7, `undo`, `max_turns` at least
    `length + 1` (twice that by default); `words`, at least the `length * (decoys + 2) + 1` that an episode needs, and
    `colours`, at least `decoys + 1`, are how many different ones it draws from. Fewer are easier to read for a small
    model.
    """

    instructions = "Look up keys of the ordered colour, then submit the value of that colour. Call one tool each turn."
    in_process = True

    def __init__(
        self,
        length: int = 4,
        decoys: int = 3,
        undo: bool = False,
        max_turns: int | None = None,
        words: int = len(WORDS),
        colours: int = len(COLOURS),
    ):
        self.length = check_int("length", length, 1)
        self.decoys = check_int("decoys", decoys, 1, len(COLOURS) - 1)
        self.undo = check_bool("undo", undo)
        if (needed := self._words_needed()) > len(WORDS):
            raise ValueError(
                f"length={length} with decoys={decoys} needs {needed} different words, and there are {len(WORDS)}: "
                "lower one of them"
            )
        self.words = WORDS[: check_int("words", words, needed, len(WORDS))]
        self.colours = COLOURS[: check_int("colours", colours, decoys + 1, len(COLOURS))]
        super().__init__(2 * (length + 1) if max_turns is None else check_int("max_turns", max_turns, length + 1))

    def start(self) -> str:
        rng = self.python_random()
        words = iter(rng.sample(self.words, self._words_needed()))
        self.colour = rng.choice(self.colours)
        self.chain = [next(words)]  # the right key at every depth, the right value last
        self.notes: dict[str, list[tuple[str, str]]] = {}  # key -> what its lookup shows, (colour, word) in order
        wrong_keys: list[str] = []
        for _ in range(self.length):
            right = next(words)
            wrong = list(islice(words, self.decoys + 1))
            # Wrong keys show wrong words only, so that no luck leads back to the chain, and all the same ones.
            notes = self._colour(rng, wrong[0], wrong[1:])
            self.notes |= {key: notes[k:] + notes[:k] for k, key in enumerate(wrong_keys)}
            self.notes[self.chain[-1]] = self._colour(rng, right, wrong[1:])
            self.chain.append(right)
            wrong_keys = wrong
        self.shown = [("", self.chain[0])]
        self.seen = {self.chain[0]: None}  # a set that keeps its order
        return f"Follow {self.colour}. {self.view()}"

    def hint(self) -> str:
        return f"The chain is {', '.join(self.chain[:-1])}; its value is {self.chain[-1]}."

    def view(self) -> str:
        kind = "Keys" if self.shown[0][1] in self.notes else "Values"
        return f"{kind}: {', '.join(f'{colour} {word}'.strip() for colour, word in self.shown)}."

    @tool
    def lookup(self, key: str) -> str:
        """Look up a key; the answer shows the next keys, or the values."""
        if key not in self.seen:
            raise ToolError("No such key in sight.")
        if key not in self.notes:
            raise ToolError(f"{key} is a value.")
        if not self.undo and key not in (word for _, word in self.shown):
            raise ToolError(f"You left {key} behind.")
        self.shown = self.notes[key]
        self.seen.update((word, None) for _, word in self.shown)
        return self.view()

    @tool
    def submit(self, value: str) -> str:
        """Submit a value that was shown; this ends the task."""
        success = value == self.chain[-1] and value in self.seen
        self.finish(success)
        return "Right." if success else "Wrong."

    def expert(self) -> str | None:
        """The next hop or the submission; None when the chain is lost, the turns do not suffice, and after the end."""
        if self.over:
            return None
        reachable = self._reachable()
        depth = max((depth for depth, word in enumerate(self.chain) if word in reachable), default=None)
        if depth is None or self.length - depth + 1 > self.turns_left:
            return None
        word = self.chain[depth]
        return format_call("submit", value=word) if depth == self.length else format_call("lookup", key=word)

    def optimal_actions(self) -> list[str]:
        """The expert's action: no other one keeps as short a way to success."""
        action = self.expert()
        return [] if action is None else [action]

    def legal_actions(self) -> list[str]:
        """Looking up every key within reach, and submitting every value within reach."""
        if self.over:
            return []
        return [
            format_call("lookup", key=word) if word in self.notes else format_call("submit", value=word)
            for word in self._reachable()
        ]

    def _reachable(self) -> list[str]:
        """Keys that can be looked up, and values that were shown, in the order in which they were shown."""
        return list(self.seen) if self.undo else [word for _, word in self.shown]

    def _words_needed(self) -> int:
        return 1 + self.length * (self.decoys + 2)

    def _colour(self, rng: Random, right: str, wrong: list[str]) -> list[tuple[str, str]]:
        """Give `right` the ordered colour and the others one each of the rest, in random order."""
        others = rng.sample([colour for colour in self.colours if colour != self.colour], len(wrong))
        notes = [(self.colour, right), *zip(others, wrong, strict=True)]
        rng.shuffle(notes)
        return notes
