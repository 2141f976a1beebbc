"""Hanoi: bring all disks to one peg, never a larger disk onto a smaller one.

Rules: disks of sizes 1 to `disks` lie on the pegs A, B and C. The action names two pegs, such as `A C`, and moves the
top disk of the first to the second, unless that has a smaller one on top. The disks start anywhere, but the largest is
not yet on the ordered peg.
Success: all disks are on the ordered peg; this ends the episode with reward 1. Horizon: from `2 ** (disks - 1)` to
`2 ** disks - 1` moves.
What is hard: smaller disks have to be moved away from where they shall be in the end. Every move can be taken back, so
nothing is ever lost but turns: this is a control for environments whose mistakes last.
"""

from __future__ import annotations

import re

from trpd_envs.base import Refused, TextEnv, check_int

PEGS = "ABC"
_MOVE = re.compile(r"\s*([ABC])\s*(?:to|->|,|\s)\s*([ABC])\s*\.?\s*", re.IGNORECASE)


class Hanoi(TextEnv):
    """See the module's docstring.

    Knobs: `disks` 2 to 10; `max_turns` at least `2 ** disks - 1` (`2 ** (disks + 1)` by default).
    """

    instructions = (
        "Stack all disks on the ordered peg. Answer with two pegs each turn, such as A C, to move the top disk."
    )
    in_process = True

    def __init__(self, disks: int = 3, max_turns: int | None = None):
        self.disks = check_int("disks", disks, 2, 10)
        longest = 2**disks - 1
        super().__init__(2 * (longest + 1) if max_turns is None else check_int("max_turns", max_turns, longest))

    def start(self) -> str:
        rng = self.python_random()
        self.goal = rng.randrange(3)
        # pegs[d] is the peg of the disk of size d + 1
        self.pegs = [rng.randrange(3) for _ in range(self.disks - 1)]
        self.pegs.append((self.goal + 1 + rng.randrange(2)) % 3)
        return f"Bring all disks to {PEGS[self.goal]}. {self.view()}"

    def view(self) -> str:
        return " ".join(f"{name}: {self._stack(peg)}." for peg, name in enumerate(PEGS))

    def act(self, action: str) -> str:
        match = _MOVE.fullmatch(action) if len(action) < 100 else None
        source, target = (PEGS.index(name.upper()) for name in match.groups()) if match else (0, 0)
        if source == target:
            raise Refused("Answer with two pegs, such as A C.")
        disk = self._top(source)
        if disk == self.disks:
            raise Refused(f"No disk is on {PEGS[source]}.")
        if self._top(target) <= disk:
            raise Refused(f"Disk {disk + 1} cannot be put on {PEGS[target]}.")
        self.pegs[disk] = target
        if self.pegs.count(self.goal) == self.disks:
            self.finish(success=True)
        return self.view()

    def expert(self) -> str | None:
        """The next move of the shortest way; None when it does not fit in the turns left, and after the end."""
        if self.over:
            return None
        peg, needed, move = self.goal, 0, None
        for disk in reversed(range(self.disks)):
            if self.pegs[disk] != peg:
                # It has to get there, and before that all smaller ones to the third peg, from where they follow.
                needed += 2**disk
                move = (self.pegs[disk], peg)
                peg = 3 - self.pegs[disk] - peg
        return None if move is None or needed > self.turns_left else _text(*move)

    def optimal_actions(self) -> list[str]:
        """The expert's action: the shortest way to a full peg is unique."""
        action = self.expert()
        return [] if action is None else [action]

    def legal_actions(self) -> list[str]:
        """Every move that the rules allow: two or three."""
        if self.over:
            return []
        tops = [self._top(peg) for peg in range(3)]
        return [_text(source, target) for source in range(3) for target in range(3) if tops[source] < tops[target]]

    def _top(self, peg: int) -> int:
        """The smallest disk on a peg, counted from 0; the number of disks where there is none."""
        return self.pegs.index(peg) if peg in self.pegs else self.disks

    def _stack(self, peg: int) -> str:
        return " ".join(str(disk + 1) for disk in reversed(range(self.disks)) if self.pegs[disk] == peg) or "empty"


def _text(source: int, target: int) -> str:
    return f"{PEGS[source]} {PEGS[target]}"
