"""CalcTools: evaluate a nested expression with one operation at a time, on registers that are used up.

Rules: the order is an expression over named registers, each of which holds a whole number. `add`, `sub`, `mul` and
`div` take two registers, which are gone then, and put the result into a new one under the next letter. Results are
whole numbers from 1 to 99,999; whatever else would come out (a fraction, nothing, less than nothing) is refused and
uses up nothing, so that no register ever holds the zero that could be divided by. Nobody says whether an operation was
the right one, and what it used up does not come back.
Success: a register that holds the value of the expression is submitted, however it came to be; any other submission
ends the episode as a failure. Horizon: `numbers - 1` operations and one submission; nothing shorter reaches the value.
What is hard: the expression has to be worked off from the inside, and the letters of the results have to be put in
place of its parts. A wrong operation is answered like a right one.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import combinations, permutations
from random import Random

from trpd_envs.base import check_int
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

LARGEST = 99_999  # what fits into a register
_LARGEST_DRAWN = 20
_MOST_NUMBERS = 6  # with more, looking for every way to the value takes too long
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMMUTING = ("add", "mul")

# A register's name, or an operation on two expressions.
_Expression = str | tuple[str, "_Expression", "_Expression"]
_Operation = tuple[str, str, str]  # the tool and the two registers


class CalcTools(ToolEnv):
    """See the module's docstring.

    Knobs: `numbers` in the expression, 2 to 6; `max_turns` at least `numbers` (twice that by default).
    """

    instructions = "Compute the ordered expression, then submit the register with its value. Call one tool each turn."
    in_process = True

    def __init__(self, numbers: int = 4, max_turns: int | None = None):
        self.numbers = check_int("numbers", numbers, 2, _MOST_NUMBERS)
        super().__init__(2 * numbers if max_turns is None else check_int("max_turns", max_turns, numbers))

    def start(self) -> str:
        rng = self.python_random()
        while True:
            names = string.ascii_lowercase[: self.numbers]
            self.registers = {name: rng.randint(2, _LARGEST_DRAWN) for name in names}
            expression, self.value = _draw(rng, rng.sample(names, self.numbers), self.registers)
            if not _Ways(self.registers, self.value).shortcut():
                break
        # What is left of the expression, its computed parts replaced by their registers; None once it cannot be done.
        self.left: _Expression | None = expression
        return f"Order: {_text(expression)}. {self.view()}"

    def hint(self) -> str:
        steps = []
        left: _Expression | None = self.left
        letters = iter(string.ascii_lowercase[self.numbers :])
        while left is not None and not isinstance(operation := _innermost(left), str):
            steps.append(" ".join(operation))
            left = _replace(left, operation, next(letters))
        return f"The way is: {', '.join(steps)}, submit {left}."

    def view(self) -> str:
        return f"Registers: {', '.join(f'{name} = {value}' for name, value in self.registers.items()) or 'none'}."

    @tool
    def add(self, left: str, right: str) -> str:
        """Add two registers."""
        return self._operate("add", left, right)

    @tool
    def sub(self, left: str, right: str) -> str:
        """Subtract the right register from the left one."""
        return self._operate("sub", left, right)

    @tool
    def mul(self, left: str, right: str) -> str:
        """Multiply two registers."""
        return self._operate("mul", left, right)

    @tool
    def div(self, left: str, right: str) -> str:
        """Divide the left register by the right one."""
        return self._operate("div", left, right)

    @tool
    def submit(self, register: str) -> str:
        """Submit the value of a register; this ends the task."""
        if register not in self.registers:
            raise ToolError("No such register.")
        success = self.registers[register] == self.value
        self.finish(success)
        return "Right." if success else "Wrong."

    def expert(self) -> str | None:
        """The next call on the shortest way to the value, along the expression while it can still be followed.

        None when no way is left, or none that fits in the turns left, and after the end.
        """
        if self.over:
            return None
        if self.left is not None:  # no way is shorter than the expression itself, so no search is needed
            return _call(_innermost(self.left)) if len(self.registers) <= self.turns_left else None
        return next(iter(self.optimal_actions()), None)

    def optimal_actions(self) -> list[str]:
        """Every call that begins a shortest way to the value, the expression's own first."""
        if self.over:
            return []
        turns, first = _Ways(self.registers, self.value).shortest()
        if turns is None or turns > self.turns_left:
            return []
        calls = sorted(map(_call, first))
        if self.left is not None:
            calls.sort(key=_call(_innermost(self.left)).__ne__)  # stable: only this one moves
        return calls

    def legal_actions(self) -> list[str]:
        """Every operation whose result fits into a register, and every submission."""
        if self.over:
            return []
        operations = (
            (name, left, right)
            for left, right in permutations(self.registers, 2)
            for name in _SIGNS
            if _result(name, self.registers[left], self.registers[right]) is not None
        )
        return [*map(_call, operations), *(_call(register) for register in self.registers)]

    def _operate(self, name: str, left: str, right: str) -> str:
        for register in (left, right):
            if register not in self.registers:
                raise ToolError("No such register.")
        if left == right:
            raise ToolError("Two different registers are wanted.")
        result = _result(name, self.registers[left], self.registers[right])
        if result is None:
            shown = f"{self.registers[left]} {_SIGNS[name]} {self.registers[right]}"
            raise ToolError(f"{shown} is not a whole number from 1 to {LARGEST}.")
        del self.registers[left], self.registers[right]
        # Each operation leaves one register less, so there are letters enough whatever the number of turns.
        letter = string.ascii_lowercase[2 * self.numbers - 2 - len(self.registers)]
        self.registers[letter] = result
        self.left = self.left and _replace(self.left, (name, left, right), letter)
        return self.view()


class _Ways:
    """Every way from some registers to a value, by the sets of registers that it uses up. Sets are bit masks.

    Ways of a set are looked for from both ends: all values of its smaller part forwards, and from each of them
    backwards what the larger part has to yield.
    """

    def __init__(self, registers: dict[str, int], value: int):
        self.names, self.numbers = list(registers), list(registers.values())
        self.value = value
        self._values: dict[int, set[int]] = {1 << k: {number} for k, number in enumerate(self.numbers)}
        self._reached: dict[tuple[int, int], bool] = {}
        self._firsts: dict[tuple[int, int], set[_Operation]] = {}

    def shortcut(self) -> bool:
        """Whether fewer than all of the registers yield the value."""
        return any(self._yields(mask, self.value) for mask in range(1, (1 << len(self.names)) - 1))

    def shortest(self) -> tuple[int | None, set[_Operation] | set[str]]:
        """Calls on a shortest way, the submission included, and all that can be the first: operations or registers.

        None and nothing where there is no way.
        """
        if self.value in self.numbers:
            return 1, {name for name, number in zip(self.names, self.numbers, strict=True) if number == self.value}
        for size in range(2, len(self.names) + 1):
            masks = [sum(bits) for bits in combinations([1 << k for k in range(len(self.names))], size)]
            if found := [self._first(mask, self.value) for mask in masks if self._yields(mask, self.value)]:
                return size, set().union(*found)
        return None, set()

    def _yields(self, mask: int, value: int) -> bool:
        """Whether operations on exactly these registers can give the value."""
        if mask.bit_count() < 5:  # more have so many values that listing them all takes longer
            return value in self._all_values(mask)
        key = (mask, value)
        if key not in self._reached:
            self._reached[key] = any(True for _ in self._last_operations(mask, value))
        return self._reached[key]

    def _first(self, mask: int, value: int) -> set[_Operation]:
        """The operations with which a way from exactly these registers to the value can begin."""
        key = (mask, value)
        if key not in self._firsts:
            found: set[_Operation] = set()
            for one, x, name, other, y, turned in self._last_operations(mask, value):
                if mask.bit_count() == 2:
                    left, right = (self.names[part.bit_length() - 1] for part in (one, other))
                    found |= {(name, right, left) if turned else (name, left, right)}
                    found |= {(name, right, left)} if name in _COMMUTING else set()
                else:
                    found |= self._first(one, x) if one.bit_count() > 1 else set()
                    found |= self._first(other, y) if other.bit_count() > 1 else set()
            self._firsts[key] = found
        return self._firsts[key]

    def _last_operations(self, mask: int, value: int) -> Iterator[tuple[int, int, str, int, int, bool]]:
        """Part, its value, operation, other part, its value, and whether the other part is the left operand."""
        for one, other in _splits(mask):
            for x in self._all_values(one):
                for name, y, turned in _partners(x, value):
                    if self._yields(other, y):
                        yield one, x, name, other, y, turned

    def _all_values(self, mask: int) -> set[int]:
        """What operations on exactly these registers can give."""
        found = self._values.get(mask)
        if found is None:
            found = set()
            for one, other in _splits(mask):
                for x in self._all_values(one):
                    for y in self._all_values(other):
                        high, low = (x, y) if x > y else (y, x)
                        found.add(high + low)
                        found.add(high * low)
                        found.add(high - low)
                        if not high % low:
                            found.add(high // low)
            found = self._values[mask] = {value for value in found if 1 <= value <= LARGEST}
        return found


def _splits(mask: int) -> Iterator[tuple[int, int]]:
    """Every way to part a set in two, the smaller part first."""
    part = (mask - 1) & mask
    while part:
        other = mask ^ part
        if (part.bit_count(), part) < (other.bit_count(), other):
            yield part, other
        part = (part - 1) & mask


def _partners(x: int, value: int) -> Iterator[tuple[str, int, bool]]:
    """Every operation and other operand that make `value` of `x`, and whether the other operand is the left one."""
    if x < value:
        yield "add", value - x, False
        if not value % x:
            yield "mul", value // x, False
    elif x == value:
        yield "mul", 1, False
        yield "div", 1, False
    else:
        yield "sub", x - value, False
        if not x % value:
            yield "div", x // value, False
    yield "sub", x + value, True
    yield "div", x * value, True


def _result(name: str, left: int, right: int) -> int | None:
    """What an operation gives, or None where that does not fit into a register."""
    if name == "div":
        result, rest = divmod(left, right)
        return None if rest else result
    result = left + right if name == "add" else left - right if name == "sub" else left * right
    return result if 1 <= result <= LARGEST else None


def _draw(rng: Random, names: list[str], registers: dict[str, int]) -> tuple[_Expression, int]:
    """A random expression over all the names, and its value. No part of it has the value 1, or too large a one."""
    if len(names) == 1:
        return names[0], registers[names[0]]
    cut = rng.randrange(1, len(names))
    left, x = _draw(rng, names[:cut], registers)
    right, y = _draw(rng, names[cut:], registers)
    if x < y:  # the larger part is the left one: then its sum with the other fits, or else their difference does
        left, x, right, y = right, y, left, x
    results = {name: result for name in _SIGNS if (result := _result(name, x, y) or 0) > 1}
    name = rng.choice(list(results))
    return (name, left, right), results[name]


def _text(expression: _Expression, inner: bool = False) -> str:
    if isinstance(expression, str):
        return expression
    name, left, right = expression
    text = f"{_text(left, True)} {_SIGNS[name]} {_text(right, True)}"
    return f"({text})" if inner else text


def _innermost(expression: _Expression) -> str | _Operation:
    """The leftmost operation on two registers, or the register that is all there is."""
    if isinstance(expression, str):
        return expression
    name, left, right = expression
    if isinstance(left, str) and isinstance(right, str):
        return name, left, right
    return _innermost(right if isinstance(left, str) else left)


def _replace(expression: _Expression, operation: _Operation, register: str) -> _Expression | None:
    """The expression with an operation replaced by the register of its result; None where it does not occur."""
    if isinstance(expression, str):
        return None
    name, left, right = expression
    turned = (name, right, left) if name in _COMMUTING else expression
    if operation in (expression, turned):
        return register
    if (done := _replace(left, operation, register)) is not None:
        return name, done, right
    if (done := _replace(right, operation, register)) is not None:
        return name, left, done
    return None


def _call(action: str | _Operation) -> str:
    if isinstance(action, str):
        return format_call("submit", register=action)
    name, left, right = action
    return format_call(name, left=left, right=right)
