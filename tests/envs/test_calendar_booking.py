"""Booking meetings: the search against plain enumeration, and the rules through the text."""

from __future__ import annotations

import json
import random
from itertools import product

import pytest

from trpd_envs import format_call, parse_calls
from trpd_envs.calendar_booking import DAYS, FIRST_HOUR, PEOPLE, Calendar


def hours_of(env: Calendar, m: int, s: int) -> set[tuple[int, int]]:
    """The (person, hour) pairs that a booking takes."""
    meeting = env.meetings[m]
    return {(p, s + h) for p in meeting.people for h in range(meeting.length)}


def can_be_completed(env: Calendar) -> bool:
    """Every combination of starts for the meetings that are left, tried one by one."""
    free = {(p, s) for p, mask in enumerate(env.free_hours) for s in range(env.n_days * env.n_hours) if mask >> s & 1}
    left = sorted(env.left)
    for starts in product(range(env.n_days * env.n_hours), repeat=len(left)):
        places = env.booked | dict(zip(left, starts, strict=True))
        taken = [hours_of(env, m, places[m]) for m in left]
        if (
            all(s % env.n_hours + env.meetings[m].length <= env.n_hours for m, s in zip(left, starts, strict=True))
            and sum(map(len, taken)) == len(set().union(*taken))
            and set().union(*taken) <= free
            and all(places[a] + env.meetings[a].length <= places[b] for a, b in env.orders)
        ):
            return True
    return False


@pytest.mark.parametrize("kwargs", [{"orders": 0}, {"orders": 2}, {"busy": 80, "people": 2}])
def test_the_expert_knows_exactly_when_all_meetings_still_fit(kwargs: dict[str, int]) -> None:
    env = Calendar(meetings=3, days=2, hours=5, max_turns=20, **{"people": 3, **kwargs})
    rng = random.Random(0)
    verdicts = set()
    for seed in range(40):
        env.reset(seed=seed)
        for _ in range(1 + seed % 2):
            bookings = [action for action in env.legal_actions() if '"book"' in action]
            if bookings and not env.over:
                env.step(rng.choice(bookings))
        if not env.over:
            verdicts.add(can_be_completed(env))
            assert (env.expert() is not None) == can_be_completed(env), seed
    assert verdicts == {True, False}


def test_legal_bookings_are_those_that_are_accepted() -> None:
    env = Calendar(meetings=4, days=2, hours=6, max_turns=2000)
    for seed in range(5):
        env.reset(seed=seed)
        env.step(env.expert())
        listed = {action for action in env.legal_actions() if '"book"' in action}
        tried = {
            format_call("book", meeting=meeting.title, day=day, hour=hour)
            for meeting in env.meetings for day in DAYS for hour in range(FIRST_HOUR - 2, FIRST_HOUR + 10)
        }  # fmt: skip
        for action in sorted(tried - listed):
            assert not env.step(action)[4]["ok"], action
        before = (env.starts, dict(env.booked), list(env.free_hours))
        assert before == (env.starts, env.booked, env.free_hours) and listed
        assert env.step(sorted(listed)[0])[4]["ok"]


def test_a_first_booking_can_be_a_mistake_and_nobody_says_so() -> None:
    for seed in range(30):
        env = Calendar()
        env.reset(seed=seed)
        bad = [a for a in env.legal_actions() if '"book"' in a and a not in env.optimal_actions()]
        observation, _, terminated, _, info = env.step(bad[0])
        assert info == {"success": False, "ok": True} and not terminated and env.expert() is None
        assert observation.startswith("Booked: ") and ". Left: " in observation
        while not env.over:  # the world goes on to its last turn
            _, reward, terminated, truncated, _ = env.step(env.legal_actions()[0])
            assert reward == 0 and not terminated
        assert truncated


def test_the_opening_tells_everything_and_free_tells_what_is_left() -> None:
    env = Calendar(people=4, meetings=5, days=3)
    for seed in range(20):
        opening, info = env.reset(seed=seed)
        for p in range(4):
            told = opening.split("Free: ")[1].rstrip(".").split("; ")[p].removeprefix(f"{PEOPLE[p]} ")
            said, _, _, _, step = env.step(format_call("free", person=PEOPLE[p]))
            assert said == f"{PEOPLE[p]} is free {told}." and step["ok"]
        meeting = env.meetings[next(m for m in range(5) if f'"{env.meetings[m].title}"' in env.expert())]
        (call,) = parse_calls(env.expert())
        env.step(env.expert())
        after, *_ = env.step(format_call("free", person=PEOPLE[meeting.people[0]]))
        day = after.split(f"{call.arguments['day']} ")[1].split(",")[0] if call.arguments["day"] in after else ""
        assert str(call.arguments["hour"]) not in day.rstrip(".").split(" ")
        assert all(f"{env.meetings[a].title} before {env.meetings[b].title}" in opening for a, b in env.orders)
        places = info["hint"].removeprefix("This fits: ").rstrip(".").split(", ")
        env.reset(seed=seed)
        for place in places:
            title, day, hour = place.split(" ")
            result = env.step(format_call("book", meeting=title, day=day, hour=int(hour)))
        assert result[4] == {"success": True, "ok": True}


def test_refusals_say_why() -> None:
    env = Calendar(orders=3, max_turns=100)
    said = set()
    for seed in range(20):
        env.reset(seed=seed)
        done = json.loads(env.expert().split(">")[1].split("<")[0])["arguments"]
        env.step(format_call("book", **done))
        meetings = [meeting.title for meeting in env.meetings]
        attempts = [
            done,
            {"meeting": "party", "day": "Mon", "hour": 9},
            {**done, "meeting": meetings[-1], "day": "Sat"},
        ]
        attempts += [
            {"meeting": title, "day": "Mon", "hour": hour} for title in meetings for hour in (8, 9, 12, 14, 23)
        ]
        for arguments in attempts:
            observation, _, _, _, info = env.step(format_call("book", **arguments))
            if not info["ok"]:
                assert observation.endswith(env.view())
                said.add(observation.split(". ")[0].split(": ")[-1])
            if env.over:
                break
    assert {"No such meeting", "No such time", "not free then", "That breaks the order"} <= said
    assert any("booked already" in text for text in said)
    env.reset(seed=0)
    assert env.step(format_call("free", person="Zoe"))[4]["ok"] is False


@pytest.mark.parametrize("kwargs", [{"busy": 0, "people": 2}, {"busy": 0, "orders": 7}, {"busy": 90, "people": 2}])
def test_the_largest_calendars_are_still_searched(kwargs: dict[str, int]) -> None:
    env = Calendar(**{"meetings": 8, "people": 6, "days": 5, "hours": 8, "orders": 0, **kwargs})
    rng = random.Random(0)
    for seed in range(4):
        env.reset(seed=seed)
        while not env.over:
            env.step(rng.choice(env.legal_actions()))
            env.expert()
        assert len(env._known) < 20_000
