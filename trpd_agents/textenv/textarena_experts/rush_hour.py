"""RushHour: distances from every position that the cars can reach to the nearest with the way out free."""

from __future__ import annotations

from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

from trpd_agents.textenv.textarena_experts.expert import MOST_STATES, Expert

Car = tuple[str, int, int, bool]  # letter, length, row or column it stays in, whether it is horizontal
Position = tuple[int, ...]  # how far along each car is

_SIZE = 6
_OUT = "X"
_DISTANCES: WeakKeyDictionary[Any, dict[Position, int]] = WeakKeyDictionary()  # of each game in progress


def optimal(game: Any) -> list[str]:
    """Every move that begins a shortest way out; none where the red car cannot get out."""
    cars, position = _cars(game)
    if game not in _DISTANCES:  # every move can be taken back, so they hold for the whole episode
        _DISTANCES[game] = _distances(cars, position)
    left = _DISTANCES[game].get(position)
    if not left:
        return []
    return [name for name, there in _moves(cars, position) if _DISTANCES[game].get(there) == left - 1]


def legal(game: Any) -> list[str]:
    """Every move of a car by one place."""
    return [name for name, _ in _moves(*_cars(game))]


def _cars(game: Any) -> tuple[tuple[Car, ...], Position]:
    vehicles = sorted(game.state.game_state["vehicles"].values(), key=lambda car: car.vid)
    cars = tuple((car.vid, car.length, car.row if car.horizontal else car.col, car.horizontal) for car in vehicles)
    return cars, tuple(car.col if car.horizontal else car.row for car in vehicles)


def _moves(cars: tuple[Car, ...], position: Position) -> list[tuple[str, Position]]:
    taken = {place for car, at in zip(cars, position, strict=True) for place in _places(car, at)}
    found = []
    for number, (car, at) in enumerate(zip(cars, position, strict=True)):
        for sign, there, end in (("+", at + 1, at + car[1]), ("-", at - 1, at - 1)):
            (place,) = _places((car[0], 1, car[2], car[3]), end)
            if 0 <= end < _SIZE and place not in taken:
                found.append((f"[{car[0]}{sign}]", (*position[:number], there, *position[number + 1 :])))
    return found


def _places(car: Car, at: int) -> list[tuple[int, int]]:
    _, length, line, horizontal = car
    return [(line, at + n) if horizontal else (at + n, line) for n in range(length)]


def _reachable(cars: tuple[Car, ...], position: Position) -> set[Position]:
    seen, queue = {position}, deque([position])
    while queue and len(seen) <= MOST_STATES:
        for _, there in _moves(cars, queue.popleft()):
            if there not in seen:
                seen.add(there)
                queue.append(there)
    return seen


def _distances(cars: tuple[Car, ...], position: Position) -> dict[Position, int]:
    """Moves that free the red car, from every position that can be reached; empty if it cannot be freed."""
    red = next(number for number, car in enumerate(cars) if car[0] == _OUT)
    out = [there for there in _reachable(cars, position) if there[red] >= _SIZE - cars[red][1]]
    distances = dict.fromkeys(out, 0)
    queue = deque(out)
    while queue:
        at = queue.popleft()
        for _, there in _moves(cars, at):
            if there not in distances:
                distances[there] = distances[at] + 1
                queue.append(there)
    return distances


EXPERT = Expert(optimal, legal)
