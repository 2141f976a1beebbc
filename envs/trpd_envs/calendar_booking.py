"""Calendar: book all meetings where everybody is free, with no way of cancelling one.

Rules: each meeting has its people, lasts one hour or two within a day, and some must be over before another begins.
`book` puts a meeting where all its people are free and what was booked so far allows it, which takes those hours of
theirs for good; `free` tells a person's hours that are left. The first observation holds the calendars of all.
Success: every meeting is booked. Horizon: one booking for each meeting.
What is hard: a booking that fits may take the only hours at which another meeting can be held. Nobody says so, and the
calendars have to be kept up to date in mind.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import NamedTuple

from trpd_envs.base import check_int
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri")
PEOPLE = ("Ana", "Ben", "Cleo", "Dov", "Eva", "Finn")
TITLES = ("audit", "budget", "demo", "hiring", "kickoff", "review", "sales", "survey")
FIRST_HOUR = 9
_DRAWS = 5


class Meeting(NamedTuple):
    """`people` are indices into `PEOPLE`, `length` is in hours."""

    title: str
    people: tuple[int, ...]
    length: int


class Calendar(ToolEnv):
    """See the module's docstring.

    Knobs: `meetings` 2 to 8; `people` 2 to 6; `days` 1 to 5 of `hours` 4 to 8 each, in all three for each meeting at
    least; `busy`, percent of a person's other hours that are taken from the start, 0 to 90; `orders`, pairs of meetings
    in a fixed order, 0 to `meetings - 1`; `max_turns` at least `meetings` (twice that by default). An episode in which
    no first booking can be a mistake is drawn again, up to 5 times: hours without limit cannot be made scarce.
    """

    instructions = "Book every meeting when all its people are free. Nothing can be cancelled. Call one tool each turn."
    in_process = True
    starts: tuple[int, ...]  # for each meeting the hours at which it could be booked now, as a bit mask
    left: set[int]  # meetings that are not booked, as indices into `meetings`

    def __init__(
        self,
        meetings: int = 4,
        people: int = 3,
        days: int = 2,
        hours: int = 6,
        busy: int = 50,
        orders: int = 1,
        max_turns: int | None = None,
    ):
        self.n_meetings = check_int("meetings", meetings, 2, len(TITLES))
        self.n_people = check_int("people", people, 2, len(PEOPLE))
        self.n_days = check_int("days", days, 1, len(DAYS))
        self.n_hours = check_int("hours", hours, 4, 8)
        if days * hours < 3 * meetings:
            raise ValueError(f"days={days} of hours={hours} with meetings={meetings}: wanted 3 hours for each of them")
        self.busy = check_int("busy", busy, 0, 90)
        self.n_orders = check_int("orders", orders, 0, meetings - 1)
        super().__init__(2 * meetings if max_turns is None else check_int("max_turns", max_turns, meetings))

    def start(self) -> str:
        for _ in range(_DRAWS):
            self._draw(self.python_random())
            choices = self._choices(self.starts, self.left)
            if not all(self._leaves_room(self.starts, self.left, *choice) for choice in choices):
                break
        who = "; ".join(f"{PEOPLE[p]} {self._hours(p)}" for p in range(self.n_people))
        return f"Book {', '.join(map(self._describe, range(self.n_meetings)))}.{self._order_text()} Free: {who}."

    def hint(self) -> str:
        """A booking of each meeting with which all can be held."""
        starts, left, places = self.starts, set(self.left), list[str]()
        while left:
            m, s = next(choice for choice in self._choices(starts, left) if self._leaves_room(starts, left, *choice))
            starts = self._after(starts, m, s)
            left.discard(m)
            places.append(f"{self.meetings[m].title} {self._time(s)}")
        return f"This fits: {', '.join(places)}."

    def view(self) -> str:
        booked = [f"{self.meetings[m].title} {self._time(s)}" for m, s in self.booked.items()]
        left = [self.meetings[m].title for m in sorted(self.left)]
        return f"Booked: {', '.join(booked) or 'nothing'}. Left: {', '.join(left) or 'nothing'}."

    @tool
    def book(self, meeting: str, day: str, hour: int) -> str:
        """Book a meeting for good, from a full hour on."""
        m = next((m for m, known in enumerate(self.meetings) if known.title == meeting), None)
        if m is None:
            raise ToolError("No such meeting.")
        if m in self.booked:
            raise ToolError(f"{meeting} is booked already.")
        length = self.meetings[m].length
        if day not in DAYS[: self.n_days] or not FIRST_HOUR <= hour <= FIRST_HOUR + self.n_hours - length:
            raise ToolError("No such time.")
        s = DAYS.index(day) * self.n_hours + hour - FIRST_HOUR
        if not self.starts[m] >> s & 1:
            wanted = (1 << length) - 1 << s
            taken = [PEOPLE[p] for p in self.meetings[m].people if wanted & ~self.free_hours[p]]
            raise ToolError(f"{', '.join(taken)}: not free then." if taken else "That breaks the order.")
        self.starts = self._after(self.starts, m, s)
        self.booked[m] = s
        self.left.discard(m)
        for p in self.meetings[m].people:
            self.free_hours[p] &= ~((1 << length) - 1 << s)
        if not self.left:
            self.finish(success=True)
        return self.view()

    @tool
    def free(self, person: str) -> str:
        """The hours at which a person is free now."""
        if person not in PEOPLE[: self.n_people]:
            raise ToolError("No such person.")
        return f"{person} is free {self._hours(PEOPLE.index(person))}."

    def expert(self) -> str | None:
        """A booking after which all others still fit; None when there is none or too few turns, and after the end."""
        return next(iter(self.optimal_actions()), None)

    def optimal_actions(self) -> list[str]:
        """Every booking after which all others still fit."""
        if self.over or len(self.left) > self.turns_left:
            return []
        return [self._call(m, s) for m, s in self._good()]

    def legal_actions(self) -> list[str]:
        """Every booking that would be accepted, and asking for each person's hours."""
        if self.over:
            return []
        asking = [format_call("free", person=name) for name in PEOPLE[: self.n_people]]
        return [*(self._call(m, s) for m, s in self._choices(self.starts, self.left)), *asking]

    def _draw(self, rng: Random) -> None:
        """Meetings, first of all booked somewhere, and calendars in which that is possible."""
        titles = rng.sample(TITLES, self.n_meetings)
        most = min(3, self.n_people)
        groups = [sorted(rng.sample(range(self.n_people), rng.randint(1, most))) for _ in titles]
        self.meetings = [Meeting(t, tuple(g), rng.randint(1, 2)) for t, g in zip(titles, groups, strict=True)]
        self.rivals = [
            [
                o
                for o, other in enumerate(self.meetings)
                if other is not one and not set(one.people).isdisjoint(other.people)
            ]
            for one in self.meetings
        ]
        self.orders: list[tuple[int, int]] = []  # the first must be over before the second; listed in time order
        every = (1 << self.n_days * self.n_hours) - 1
        self.free_hours = [every] * self.n_people
        while (places := self._place(rng)) is None:
            pass
        used = [0] * self.n_people
        for meeting, s in zip(self.meetings, places, strict=True):
            for p in meeting.people:
                used[p] |= (1 << meeting.length) - 1 << s
        for p in range(self.n_people):
            taken = sum(1 << h for h in range(every.bit_length()) if rng.randrange(100) < self.busy)
            self.free_hours[p] = every & ~taken | used[p]
        in_time = sorted(range(self.n_meetings), key=lambda m: places[m])
        pairs = [(a, b) for a, b in pairwise(in_time) if self._over_before(places, a, b)]
        chosen = set(rng.sample(pairs, min(self.n_orders, len(pairs))))
        self.orders = [pair for pair in pairs if pair in chosen]
        self.starts = self._first_starts()
        self.booked: dict[int, int] = {}
        self.left = set(range(self.n_meetings))
        self._known: dict[tuple[int, ...], bool] = {}

    def _place(self, rng: Random) -> list[int] | None:
        """A start for each meeting at which nothing collides, or None when the first choices left no room."""
        starts, places = self._first_starts(), []
        for m in range(self.n_meetings):
            possible = list(_bits(starts[m]))
            if not possible:
                return None
            places.append(rng.choice(possible))
            starts = self._after(starts, m, places[-1])
        return places

    def _over_before(self, places: list[int], a: int, b: int) -> bool:
        return places[a] + self.meetings[a].length <= places[b]

    def _first_starts(self) -> tuple[int, ...]:
        """For each meeting, the hours at which it may begin when nothing is booked, as a bit mask."""
        return tuple(
            sum(
                1 << s
                for s in range(self.n_days * self.n_hours)
                if s % self.n_hours + meeting.length <= self.n_hours
                and all(self.free_hours[p] >> s & 1 and self.free_hours[p] >> s + meeting.length - 1 & 1
                        for p in meeting.people)
            )
            for meeting in self.meetings
        )  # fmt: skip

    def _after(self, starts: tuple[int, ...], m: int, s: int) -> tuple[int, ...]:
        """`starts` when meeting `m` is booked at `s`; that of a booked one is 0."""
        left = list(starts)
        left[m] = 0
        length = self.meetings[m].length
        for other in self.rivals[m]:
            early = max(0, s - self.meetings[other].length + 1)  # from here to the end of `m` the two would overlap
            left[other] &= ~((1 << s + length - early) - 1 << early)
        for first, second in self.orders:
            if first == m:
                left[second] &= -1 << s + length
            if second == m:
                left[first] &= (1 << max(0, s - self.meetings[first].length + 1)) - 1
        return tuple(left)

    def _good(self) -> list[tuple[int, int]]:
        """Bookings after which all others still fit."""
        choices = self._choices(self.starts, self.left)
        return [choice for choice in choices if self._leaves_room(self.starts, self.left, *choice)]

    def _leaves_room(self, starts: tuple[int, ...], left: set[int], m: int, s: int) -> bool:
        return self._fits(self._after(starts, m, s), left - {m})

    def _choices(self, starts: tuple[int, ...], left: set[int]) -> list[tuple[int, int]]:
        return [(m, s) for m in sorted(left) for s in _bits(starts[m])]

    def _fits(self, starts: tuple[int, ...], left: set[int]) -> bool:
        """Whether the meetings in `left` can all be booked: exact, depth first, the one with fewest choices first."""
        if not left:
            return True
        starts = self._tightened(starts, left)
        m = min(left, key=lambda m: starts[m].bit_count())
        if not starts[m]:
            return False
        if starts not in self._known:
            rest = left - {m}
            self._known[starts] = any(self._fits(self._after(starts, m, s), rest) for s in _bits(starts[m]))
        return self._known[starts]

    def _tightened(self, starts: tuple[int, ...], left: set[int]) -> tuple[int, ...]:
        """`starts` without those that the orders among the meetings in `left` rule out."""
        both = [(a, b) for a, b in self.orders if a in left and b in left]
        if not both:
            return starts
        kept = list(starts)
        for a, b in both:  # not before the first can be over
            kept[b] &= -1 << (kept[a] & -kept[a]).bit_length() - 1 + self.meetings[a].length if kept[a] else 0
        for a, b in reversed(both):  # not when it would end after the last start of the second
            kept[a] &= (1 << max(0, kept[b].bit_length() - self.meetings[a].length)) - 1
        return tuple(kept)

    def _describe(self, m: int) -> str:
        meeting = self.meetings[m]
        names = " and ".join(PEOPLE[p] for p in meeting.people)
        return f"{meeting.title} ({names}, {meeting.length} {'hours' if meeting.length > 1 else 'hour'})"

    def _order_text(self) -> str:
        return "".join(f" {self.meetings[a].title} before {self.meetings[b].title}." for a, b in self.orders)

    def _hours(self, p: int) -> str:
        """A person's free hours by day, such as `Mon 9 10 14, Tue 9`."""
        days = []
        for d in range(self.n_days):
            hours = [FIRST_HOUR + h for h in range(self.n_hours) if self.free_hours[p] >> d * self.n_hours + h & 1]
            days += [f"{DAYS[d]} {' '.join(map(str, hours))}"] if hours else []
        return ", ".join(days) or "never"

    def _time(self, s: int) -> str:
        return f"{DAYS[s // self.n_hours]} {FIRST_HOUR + s % self.n_hours}"

    def _call(self, m: int, s: int) -> str:
        day, hour = divmod(s, self.n_hours)
        return format_call("book", meeting=self.meetings[m].title, day=DAYS[day], hour=FIRST_HOUR + hour)


def _bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, from the lowest."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
