"""The rules of each bundled world, checked through its text."""

from __future__ import annotations

from collections import deque

import pytest

from trpd_envs import format_call
from trpd_envs.courier import ITEMS, ROOMS, Courier
from trpd_envs.gridlake import GridLake
from trpd_envs.guessnumber import GuessNumber
from trpd_envs.keychain import COLOURS, WORDS, KeyChain


def go(env: Courier, room: str) -> tuple[str, bool]:
    observation, _, _, _, info = env.step(format_call("go", room=room))
    return observation, info["ok"]


def exits(observation: str) -> list[str]:
    listed = observation.split("Exits: ")[1].split(".")[0]
    return [] if listed == "none" else listed.split(", ")


def read_map(observation: str) -> dict[str, list[str]]:
    text = observation.split("Map: ")[1].split("\n")[0]
    return {room: doors.split(", ") for room, doors in (part.split(": ") for part in text.rstrip(".").split(". "))}


def reference_length(observation: str, locking: bool) -> int | None:
    """Shortest solution found from the first observation alone, with every item free to be moved."""
    doors = read_map(observation)
    places = dict(
        part.split(" in ") for part in observation.split("Items: ")[1].split(" Map")[0].rstrip(".").split(". ")
    )
    wanted, target = observation.split("Order: ")[1].split(".")[0].split(" to ")
    start = observation.split("You are in ")[1].split(".")[0]
    State = tuple[str, str, frozenset[tuple[str, str]], frozenset[frozenset[str]]]
    first: State = (start, "", frozenset(places.items()), frozenset())
    seen, queue = {first}, deque([(first, 0)])
    while queue:
        (room, holding, lying, locked), calls = queue.popleft()
        following: list[State] = []
        for there in doors[room]:
            door = frozenset((room, there))
            if door not in locked:
                following.append((there, holding, lying, locked | {door} if locking else locked))
        if holding:
            if holding == wanted and room == target:
                return calls + 1
            following.append((room, "", lying | {(holding, room)}, locked))
        else:
            following += [(room, item, lying - {(item, place)}, locked) for item, place in lying if place == room]
        for state in following:
            if state not in seen:
                seen.add(state)
                queue.append((state, calls + 1))
    return None


@pytest.mark.parametrize("locking", [True, False])
def test_courier_expert_is_as_short_as_exhaustive_search_on_the_text(locking: bool) -> None:
    env = Courier(locking=locking)
    for seed in range(25):
        observation, _ = env.reset(seed=seed)
        turns = 0
        while (action := env.expert()) is not None:
            env.step(action)
            turns += 1
        assert turns == reference_length(observation, locking) >= 4


def test_courier_doors_lock_behind_in_both_directions() -> None:
    locked_in = 0
    for seed in range(40):
        env = Courier()
        first, _ = env.reset(seed=seed)
        start = env.rooms[env.room]
        there = exits(first)[0]
        observation, ok = go(env, there)
        assert ok and observation.startswith(f"You are in {there}. ") and start not in exits(observation)
        observation, ok = go(env, start)
        assert not ok and observation.startswith(f"No open door to {start}. You are in {there}.")
        while env.expert() is None and not env.over:  # lost: nobody says so, and the world goes on
            observation, _ = go(env, start)
            locked_in += 1
        assert "lost" not in observation
    assert locked_in


def test_courier_without_locking_doors_stay_open() -> None:
    env = Courier(locking=False, max_turns=50)
    first, _ = env.reset(seed=1)
    start, there = env.rooms[env.room], exits(first)[0]
    for room in [there, start] * 3:
        assert go(env, room)[1]


def test_courier_first_observation_tells_everything_and_maps_are_symmetric() -> None:
    for seed in range(30):
        env = Courier(rooms=6, items=3)
        observation, _ = env.reset(seed=seed)
        doors = read_map(observation)
        assert set(doors) == set(env.rooms) <= set(ROOMS) and len(doors) == 6
        assert all(a in doors[b] for a in doors for b in doors[a])
        assert set(env.places) <= set(ITEMS) and all(
            f"{item} in {env.rooms[p]}." in observation for item, p in env.places.items()
        )
        assert env.places[env.wanted] != env.room and env.rooms[env.places[env.wanted]] != env.target


def test_courier_draws_from_the_first_words_only_and_from_all_of_them() -> None:
    env = Courier(words=5)
    rooms, items = set(), set()
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        assert observation.startswith(f"Order: {env.wanted} to {env.target}. Items: ")
        rooms |= set(read_map(observation))
        items |= set(env.places)
    assert rooms == set(ROOMS[:5]) and items == set(ITEMS[:5])
    for name in (ROOMS[5], ROOMS[11]):  # a room that is never drawn is a room without a door, as it is in larger worlds
        assert go(env, name) == (f"No open door to {name}. {env.view()}", False)


def test_courier_with_all_words_is_the_default() -> None:
    assert Courier(words=12).reset(seed=3) == Courier().reset(seed=3) != Courier(words=4).reset(seed=3)


def test_courier_hands_hold_one_item_and_items_stay_where_they_fall() -> None:
    env = Courier(rooms=3, items=12, locking=False, max_turns=100)
    for seed in range(20):
        env.reset(seed=seed)
        here = [item for item, place in env.places.items() if place == env.room]
        if len(here) >= 2:
            break
    one, two = here[:2]

    def call(name: str, item: str) -> tuple[str, bool]:
        observation, _, _, _, info = env.step(format_call(name, item=item))
        return observation, info["ok"]

    assert call("drop", one) == (f"You do not hold {one}. {env.view()}", False)
    observation, ok = call("take", one)
    assert ok and f"You hold: {one}." in observation and one not in observation.split("Here: ")[1].split(".")[0]
    assert call("take", two) == (f"Your hands are full. {env.view()}", False)
    there = exits(observation)[0]
    go(env, there)
    assert call("drop", one)[1] and env.places[one] == env.room
    assert call("take", two) == (f"No {two} here. {env.view()}", False)
    assert call("take", "unicorn")[0].startswith("No such item.")
    assert go(env, "moon")[0].startswith("No such room.")


def test_courier_only_the_wanted_item_in_the_target_room_counts() -> None:
    env = Courier(rooms=3, items=12, locking=False, max_turns=100)
    env.reset(seed=0)
    while f'"take", "arguments": {{"item": "{env.wanted}"}}' not in (action := env.expert()):
        env.step(action)
    env.step(action)
    env.step(format_call("drop", item=env.wanted))  # where it lay: not the target
    assert not env.success and not env.over


def keychain_lookup(env: KeyChain, key: str) -> tuple[str, bool]:
    observation, _, _, _, info = env.step(format_call("lookup", key=key))
    return observation, info["ok"]


@pytest.mark.parametrize("undo", [False, True])
def test_keychain_wrong_hops_look_the_same_and_last_unless_undone(undo: bool) -> None:
    for seed in range(20):
        env = KeyChain(undo=undo, max_turns=30)
        first, _ = env.reset(seed=seed)
        colour = first.split("Follow ")[1].split(".")[0]
        key = first.split("Keys: ")[1].rstrip(".")
        observation, _ = keychain_lookup(env, key)
        right = env.chain[1]
        wrong = next(word for _, word in env.shown if word != right)
        while observation.startswith("Keys"):
            observation, ok = keychain_lookup(env, wrong)
            notes = dict(note.split(" ") for note in observation.split(": ")[1].rstrip(".").split(", "))
            assert ok and set(notes) <= set(COLOURS) and len(notes) >= 4 and colour in notes
            assert not set(notes.values()) & set(env.chain), "a wrong key must not lead back"
            wrong = notes[colour]
        observation, ok = keychain_lookup(env, right)
        assert ok == undo
        if undo:
            assert env.expert() is not None
        else:
            assert observation.startswith(f"You left {right} behind. Values: ") and env.expert() is None
            assert env.step(format_call("submit", value=wrong))[0:4] == ("Wrong.", 0.0, True, False)
            assert not env.success


def test_keychain_refusals_and_early_submission() -> None:
    env = KeyChain(length=1)
    env.reset(seed=0)
    assert keychain_lookup(env, "nowhere")[0].startswith("No such key in sight. Keys: ")
    value = env.chain[-1]
    keychain_lookup(env, env.chain[0])
    assert keychain_lookup(env, value) == (f"{value} is a value. {env.view()}", False)
    assert env.step(format_call("submit", value=value))[1:4] == (1.0, True, False)
    env.reset(seed=0)
    assert env.step(format_call("submit", value=env.chain[0]))[1:4] == (0.0, True, False)


def test_keychain_draws_from_the_first_words_and_colours_only_and_from_all_of_them() -> None:
    env = KeyChain(length=2, decoys=1, words=9, colours=3)
    words, colours = set(), set()
    for seed in range(40):
        env.reset(seed=seed)
        colours |= {env.colour} | {colour for notes in env.notes.values() for colour, _ in notes}
        words |= {word for notes in env.notes.values() for _, word in notes} | set(env.chain)
    assert words == set(WORDS[:9]) and colours == set(COLOURS[:3])
    everything = KeyChain(words=len(WORDS), colours=len(COLOURS))
    assert everything.reset(seed=3) == KeyChain().reset(seed=3) != KeyChain(words=30).reset(seed=3)


def test_courier_with_something_else_in_hand_may_walk_on_or_drop_it_first() -> None:
    env = Courier(rooms=4, items=6, locking=False, max_turns=60)
    met = 0
    for seed in range(60):
        env.reset(seed=seed)
        other = next((i for i, place in env.places.items() if place == env.room and i != env.wanted), None)
        if other is None:
            continue
        ways = env.optimal_actions()
        env.step(format_call("take", item=other))
        assert env.optimal_actions() == [format_call("drop", item=other), *ways]
        while env.room != env.places[env.wanted]:
            env.step(env.optimal_actions()[-1])
        assert env.optimal_actions() == [format_call("drop", item=other)]  # no further: the hands have to be free
        met += 1
    assert met > 10


def test_words_cannot_be_confused() -> None:
    assert len(set(WORDS)) == len(WORDS) and not set(WORDS) & set(COLOURS)
    assert len(set(ROOMS)) == len(set(ITEMS)) == 12 and not set(ROOMS) & set(ITEMS)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in (*WORDS, *COLOURS, *ROOMS, *ITEMS))


def test_lake_holes_absorb_and_its_text_is_the_map() -> None:
    fallen = 0
    for seed in range(30):
        env = GridLake()
        observation, _ = env.reset(seed=seed)
        rows = [line.split(" ") for line in observation.splitlines()[1:]]
        assert rows[0][0] == "P" and rows[3][3] == "G"
        assert {(r, c) for r in range(4) for c in range(4) if rows[r][c] == "O"} == env.holes and len(env.holes) == 4
        if rows[0][1] == "O":
            observation, reward, terminated, _, info = env.step("  RIGHT\n")
            assert terminated and reward == 0.0 and info == {"success": False, "ok": True} and env.expert() is None
            fallen += 1
    assert fallen


def test_lake_refuses_what_is_no_move() -> None:
    env = GridLake(holes=0)
    env.reset(seed=0)
    for action in ["up", "", "go down", "<tool_call>", "r" * 200_000]:
        observation, _, _, _, info = env.step(action)
        assert not info["ok"] and observation.endswith(env.view()) and len(observation) < 200
    assert env.step("Down ")[4]["ok"] and env.cell == (1, 0)


def test_slippery_lake_value_iteration_knows_its_chances() -> None:
    """The expert's own estimate of its chance from the start agrees with how often it arrives."""
    env = GridLake(size=3, slippery=True, holes=2, max_turns=30)
    expected = 0.0
    arrived = 0
    n = 400
    for seed in range(n):
        env.reset(seed=seed)
        action = env.expert()
        assert env._chances is not None
        expected += float(env._chances[30, :, 0].max()) / n
        while action is not None:
            env.step(action)
            action = env.expert()
        arrived += env.success
    assert abs(arrived / n - expected) < 0.08  # more than three standard errors


def test_guess_answers_and_refusals() -> None:
    env = GuessNumber(low=1, high=31)
    env.reset(seed=0)
    env.secret = 20
    assert env.step(" 5\n")[0] == "Higher than 5." and env.step("+25.")[0] == "Lower than 25."
    for action in ["0", "32", "five", "", "1e1", "٣", "5 6", "9" * 5000, "-" * 200_000]:
        observation, _, _, _, info = env.step(action)
        assert observation == "Answer with a number from 1 to 31." and not info["ok"]
        if env.over:
            env.reset()
            env.secret = 20
    env.reset()
    env.secret = 20
    assert env.step("20") == ("20 is right.", 1.0, True, False, {"success": True, "ok": True})


def test_guess_expert_remembers_every_answer() -> None:
    env = GuessNumber(low=1, high=31)
    for secret in range(5, 28):
        env.reset(seed=0)
        env.secret = secret
        for guess in ["4", "28", "1", "31"]:  # the last two tell nothing new
            env.step(guess)
        assert env.expert() == "16" and (env.known_low, env.known_high) == (5, 27)
        while (action := env.expert()) is not None:
            env.step(action)
        assert env.success and env.turn <= 4 + 5
