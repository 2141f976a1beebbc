"""GridLake: cross a frozen lake on a grid without stepping into a hole.

Rules: those of FrozenLake, read as text. P is you, `.` is ice, O a hole, G the goal; the action is the word up,
down, left or right. You start in the top left corner and the goal is bottom right. A hole ends the episode as a
failure. With `slippery`, a move goes where it was meant to, or to either side of that, with probability 1/3 each.
Success: the goal is reached; this ends the episode with reward 1. Horizon: at least `2 * (size - 1)` moves.
What is hard: holes are absorbing, and a map is two-dimensional while text is not.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from trpd_envs.base import Refused, TextEnv, check_bool, check_int

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_SIDES = {"up": ("left", "right"), "down": ("left", "right"), "left": ("up", "down"), "right": ("up", "down")}

_ROUNDING = 1e-12  # chances that differ by less are equal

_Cell = tuple[int, int]


class GridLake(TextEnv):
    """See the module's docstring.

    Knobs: `size` 2 to 20; `slippery`; `holes` up to half of the cells (a quarter by default); `max_turns` at least
    `2 * (size - 1)` (`size * size` by default, six times that when slippery). Every map has a way of at most so many.
    """

    instructions = "Walk to G and avoid every O. Answer with one word each turn: up, down, left or right."
    in_process = True

    def __init__(self, size: int = 4, slippery: bool = False, holes: int | None = None, max_turns: int | None = None):
        self.size = check_int("size", size, 2, 20)
        self.slippery = check_bool("slippery", slippery)
        every = [(r, c) for r in range(size) for c in range(size)]
        self._near = {cell: [self._after(cell, word) for word in MOVES] for cell in every}
        cells = len(every)
        # Half of the cells always leave room for a shortest way, except on the 2 x 2 lake.
        self.n_holes = cells // 4 if holes is None else check_int("holes", holes, 0, min(cells // 2, (size - 1) ** 2))
        default = cells * (6 if self.slippery else 1)
        super().__init__(default if max_turns is None else check_int("max_turns", max_turns, 2 * (size - 1)))

    def start(self) -> str:
        self.goal = (self.size - 1, self.size - 1)
        self.holes: set[_Cell] = set()
        while len(self.holes) < self.n_holes:
            self.holes = self._draw()
        self.cell = (0, 0)
        self._chances: np.ndarray | None = None
        return self.view()

    def view(self) -> str:
        rows = [" ".join(self._mark((r, c)) for c in range(self.size)) for r in range(self.size)]
        return "\n".join(["Lake:", *rows])

    def act(self, action: str) -> str:
        word = action.strip().lower() if len(action) < 100 else ""
        if word not in MOVES:
            raise Refused("Answer with one word: up, down, left or right.")
        if self.slippery:
            word = (word, *_SIDES[word])[int(self.np_random.integers(3))]
        elif self._after(self.cell, word) == self.cell:
            raise Refused("The lake ends there.")
        self.cell = self._after(self.cell, word)
        if self.cell in self.holes:
            self.finish(success=False)
            return "You fell into a hole."
        if self.cell == self.goal:
            self.finish(success=True)
            return "You reached the goal."
        return self.view()

    def expert(self) -> str | None:
        """A shortest way's first move; when slippery, the move most likely to arrive in the turns left.

        None when the goal cannot be reached in the turns left, and after the end.
        """
        return next(iter(self.optimal_actions()), None)

    def optimal_actions(self) -> list[str]:
        """Every move that begins a shortest way; when slippery, every move most likely to arrive in the turns left."""
        if self.over:
            return []
        if self.slippery:
            if self._chances is None:
                self._chances = self._solve()
            chances = self._chances[self.turns_left, :, self._index(self.cell)]
            best = chances.max()
            return [word for word, chance in zip(MOVES, chances, strict=True) if 0 < best <= chance + _ROUNDING]
        distances = self._distances(self.holes)
        left = distances.get(self.cell, self.turns_left + 1)
        if left > self.turns_left:
            return []
        return [word for word in MOVES if distances.get(self._after(self.cell, word)) == left - 1]

    def legal_actions(self) -> list[str]:
        """Every move that would be accepted, into a hole included."""
        if self.over:
            return []
        return [word for word in MOVES if self.slippery or self._after(self.cell, word) != self.cell]

    def _draw(self) -> set[_Cell]:
        """Holes put down in random order wherever a way of at most `max_turns` is left; may stop short of `n_holes`."""
        cells = list(self._near)[1:-1]
        self.python_random().shuffle(cells)
        holes: set[_Cell] = set()
        way = self._way(holes)
        for cell in cells:
            if len(holes) == self.n_holes:
                break
            if cell not in way:  # a hole off the known way cannot close it
                holes.add(cell)
            elif other := self._way(holes | {cell}):
                holes.add(cell)
                way = other
        return holes

    def _way(self, holes: set[_Cell]) -> set[_Cell]:
        """The cells of a shortest way from the start, or none if it would take more than `max_turns` moves."""
        distances = self._distances(holes)
        cell = (0, 0)
        if distances.get(cell, self.max_turns + 1) > self.max_turns:
            return set()
        way = {cell}
        while cell != self.goal:
            cell = min(self._near[cell], key=lambda c: distances.get(c, self.size**2))
            way.add(cell)
        return way

    def _mark(self, cell: _Cell) -> str:
        if cell == self.cell:
            return "P"
        return "G" if cell == self.goal else "O" if cell in self.holes else "."

    def _after(self, cell: _Cell, word: str) -> _Cell:
        r, c = cell[0] + MOVES[word][0], cell[1] + MOVES[word][1]
        return (r, c) if 0 <= r < self.size and 0 <= c < self.size else cell

    def _distances(self, holes: set[_Cell]) -> dict[_Cell, int]:
        """Moves to the goal from every cell that can reach it (breadth first, no slipping)."""
        distances = {self.goal: 0}
        queue = deque([self.goal])
        while queue:
            cell = queue.popleft()
            for near in self._near[cell]:
                if near not in holes and near not in distances:
                    distances[near] = distances[cell] + 1
                    queue.append(near)
        return distances

    def _index(self, cell: _Cell) -> int:
        return cell[0] * self.size + cell[1]

    def _solve(self) -> np.ndarray:
        """Value iteration: float `[turns left, move, cell]`, the best probability of reaching the goal in that time."""
        cells = list(self._near)
        after = {word: np.array([self._index(self._after(cell, word)) for cell in cells]) for word in MOVES}
        holes = [self._index(cell) for cell in self.holes]
        goal = self._index(self.goal)
        chances = np.zeros((self.max_turns + 1, len(MOVES), len(cells)))
        value = np.zeros(len(cells))
        value[goal] = 1.0
        for turns in range(1, self.max_turns + 1):
            for m, word in enumerate(MOVES):
                chances[turns, m] = sum(value[after[way]] for way in (word, *_SIDES[word])) / 3
            value = chances[turns].max(axis=0)
            value[holes] = 0.0
            value[goal] = 1.0
        return chances
