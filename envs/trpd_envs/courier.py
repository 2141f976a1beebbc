"""Courier: bring the named item to the named room, through doors that lock behind you.

Rules: rooms are joined by doors; `go` passes one, `take` and `drop` move items, one at a time. With `locking`,
every door you pass is locked for good in both directions, so a wrong way cannot be undone and nobody says so;
without, every mistake can be repaired (the control). Rooms and items are a random subset of fixed words, so the
order has to be read.
Success: the wanted item is dropped in the target room; this ends the episode with reward 1. Horizon: at least 4
calls (go, take, go, drop), and at most `max_turns` for a player who makes no mistake.
What is hard: the whole route must be planned on the map before the first step, since the doors on the way to the
item are missing on the way to the target.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from trpd_envs.base import check_bool, check_int
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

ROOMS = (
    "attic", "cellar", "garden", "hall", "kitchen", "library",
    "office", "pantry", "porch", "studio", "tower", "vault",
)  # fmt: skip
ITEMS = (
    "apple", "book", "coin", "drum", "feather", "key",
    "lamp", "map", "ring", "rope", "stone", "vase",
)  # fmt: skip

# A planning state: the room's index, whether the wanted item is in hand, and the doors still open as a bit mask.
_State = tuple[int, bool, int]


class Courier(ToolEnv):
    """See the module's docstring.

    Knobs: `rooms` 3 to 12, `items` 1 to 12, `locking`, `max_turns` at least 4; `words`, no fewer than rooms
    and items, is how many names these are drawn from. Fewer names are easier to read for a small model.
    """

    instructions = "Bring the ordered item to the ordered room. Call one tool each turn."
    in_process = True
    room: int  # where the player is, an index into `rooms`
    holding: str | None

    def __init__(self, rooms: int = 4, items: int = 2, locking: bool = True, max_turns: int = 12, words: int = 12):
        super().__init__(check_int("max_turns", max_turns, 4))
        self.n_rooms = check_int("rooms", rooms, 3, len(ROOMS))
        self.n_items = check_int("items", items, 1, len(ITEMS))
        self.locking = check_bool("locking", locking)
        words = check_int("words", words, max(self.n_rooms, self.n_items), len(ROOMS))
        self.room_names, self.item_names = ROOMS[:words], ITEMS[:words]

    def start(self) -> str:
        while True:
            self._draw()
            calls, _ = self._plan()
            if calls is not None and calls <= self.max_turns:
                break
        order = f"Order: {self.wanted} to {self.target}."
        doors = " ".join(f"{room}: {', '.join(self._exits(i))}." for i, room in enumerate(self.rooms))
        items = " ".join(f"{item} in {self.rooms[place]}." for item, place in self.places.items())
        # The order comes first: who reads from left to right then knows, at each room of the map, whether it matters.
        return f"{order} Items: {items} Map: {doors}\n{self.view()}"

    def hint(self) -> str:
        """A shortest solution, by one breadth-first search that remembers where it came from."""
        source, target = self.places[self.wanted], self.rooms.index(self.target)
        first: _State = (self.room, False, self.open)
        before: dict[_State, _State | None] = {first: None}
        queue = deque([first])
        while (state := queue.popleft())[:2] != (target, True):
            for after in self._moves(state, source):
                if after not in before:
                    before[after] = state
                    queue.append(after)
        way = [f"drop {self.wanted}"]
        while (earlier := before[state]) is not None:
            taken = earlier[0] == state[0]
            way.append(f"take {self.wanted}" if taken else f"go {self.rooms[state[0]]}")
            state = earlier
        return f"The way is: {', '.join(reversed(way))}."

    def view(self) -> str:
        here = [item for item, place in self.places.items() if place == self.room and item != self.holding]
        exits = self._exits(self.room)
        return (
            f"You are in {self.rooms[self.room]}. Exits: {', '.join(exits) or 'none'}. "
            f"Here: {', '.join(here) or 'nothing'}. You hold: {self.holding or 'nothing'}."
        )

    @tool
    def go(self, room: str) -> str:
        """Walk through an open door into the next room."""
        if room not in self._exits(self.room):
            raise ToolError(f"No open door to {room}." if room in ROOMS else "No such room.")
        there = self.rooms.index(room)
        if self.locking:
            self.open &= ~self.doors[self.room][there]
        self.room = there
        return self.view()

    @tool
    def take(self, item: str) -> str:
        """Pick up an item that is here."""
        if self.holding is not None:
            raise ToolError("Your hands are full.")
        if self.places.get(item) != self.room:
            raise ToolError(f"No {item} here." if item in ITEMS else "No such item.")
        self.holding = item
        return self.view()

    @tool
    def drop(self, item: str) -> str:
        """Put down the item you hold."""
        if item != self.holding:
            raise ToolError(f"You do not hold {item}." if item in ITEMS else "No such item.")
        self.holding = None
        self.places[item] = self.room
        if item == self.wanted and self.rooms[self.room] == self.target:
            self.finish(success=True)
        return self.view()

    def expert(self) -> str | None:
        """The first call of a shortest solution from here; None when none fits in the turns left, or after the end."""
        return next(iter(self.optimal_actions()), None)

    def optimal_actions(self) -> list[str]:
        """Every call that begins a shortest solution from here; none when none fits in the turns left."""
        calls, first = (None, []) if self.over else self._plan()
        return first if calls is not None and calls <= self.turns_left else []

    def legal_actions(self) -> list[str]:
        """Every call that would be accepted."""
        if self.over:
            return []
        going = [format_call("go", room=room) for room in self._exits(self.room)]
        if self.holding is not None:
            return [*going, format_call("drop", item=self.holding)]
        here = [item for item, place in self.places.items() if place == self.room]
        return [*going, *(format_call("take", item=item) for item in here)]

    def _draw(self) -> None:
        """One random map, placement and order, not yet known to be solvable."""
        rng, n = self.python_random(), self.n_rooms
        self.rooms = rng.sample(self.room_names, n)
        joined = {(rng.randrange(b), b) for b in range(1, n)}  # a random tree: each room joins an earlier one
        for _ in range(n // 2):  # and at most n / 2 doors more
            a, b = rng.randrange(n), rng.randrange(n)
            if a != b:
                joined.add((min(a, b), max(a, b)))
        # doors[a][b] is the bit of the door between rooms a and b
        self.doors: list[dict[int, int]] = [{} for _ in range(n)]
        for k, (a, b) in enumerate(sorted(joined)):
            self.doors[a][b] = self.doors[b][a] = 1 << k
        self.open = (1 << len(joined)) - 1
        self.places = {item: rng.randrange(n) for item in rng.sample(self.item_names, self.n_items)}
        self.wanted = rng.choice(list(self.places))
        source = self.places[self.wanted]
        self.room = (source + 1 + rng.randrange(n - 1)) % n  # neither the start nor the target is where the item lies
        self.target = self.rooms[(source + 1 + rng.randrange(n - 1)) % n]
        self.holding = None

    def _exits(self, room: int) -> list[str]:
        return [self.rooms[there] for there, door in self.doors[room].items() if door & self.open]

    def _plan(self) -> tuple[int | None, list[str]]:
        """How many calls deliver the wanted item from the present state, None when none do, and what can be the first.

        Other items never help, so one in hand is dropped at some time before the wanted one is taken, and the search
        knows only the room, the wanted item and the doors.
        """
        burden = self.holding not in (None, self.wanted)
        calls, states = self._search()
        if calls is None:
            return None, []
        dropping = [format_call("drop", item=self.holding)] if burden or not states else []
        # With full hands nothing can be taken, only walked on.
        going = [self._call(state) for state in states if not (burden and state[0] == self.room)]
        return calls + burden, [*dropping, *going]

    def _search(self) -> tuple[int | None, list[_State]]:
        """Calls to the delivery, None when there is no way, and the states that the first of them may lead to.

        Breadth first, one call at a time; each state remembers with which first states a shortest way to it begins.
        Without first states the item is dropped at once.
        """
        source, target = self.places[self.wanted], self.rooms.index(self.target)
        first: _State = (self.room, self.holding == self.wanted, self.open)
        beginnings: dict[_State, list[_State]] = {first: []}
        seen = {first}
        calls = 1
        while beginnings:
            arrived = [found for state, found in beginnings.items() if state[0] == target and state[1]]
            if arrived:
                best = set().union(*arrived)
                return calls, [state for state in self._moves(first, source) if state in best]
            following: dict[_State, list[_State]] = {}
            for state, found in beginnings.items():
                for after in self._moves(state, source):
                    if after not in seen:
                        following.setdefault(after, []).extend(found or [after])
            seen.update(following)
            beginnings = following
            calls += 1
        return None, []

    def _moves(self, state: _State, source: int) -> Iterator[_State]:
        room, carrying, open_doors = state
        if room == source and not carrying:
            yield room, True, open_doors  # taking it at once is never worse than passing by
            return
        for there, door in self.doors[room].items():
            if door & open_doors:
                yield there, carrying, open_doors & ~door if self.locking else open_doors

    def _call(self, after: _State) -> str:
        """The call that leads from the present state to `after`."""
        if after[0] == self.room:
            return format_call("take", item=self.wanted)
        return format_call("go", room=self.rooms[after[0]])
