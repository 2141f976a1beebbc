"""Try every game of textarena and write down what happened, as the table that the package ships.

    python benchmarks/textarena_table.py            # writes trpd_agents/textenv/textarena_table.json
    python benchmarks/textarena_table.py --check    # only says whether it would be another one

Every game is made and reset for 1 to 15 players, reset again with the same and with other seeds, and played with
garbage and with moves that its own rules mention, each in a process of its own with a time limit. All of it is done in
two processes that order sets differently: an episode that is another one there cannot be repeated. Run it under
Python 3.11, with a fresh installation of textarena and no API key.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trpd_agents.textenv.agent_env import clean_action
from trpd_agents.textenv.textarena_games import (
    BROKEN,
    FAULTS,
    NEEDS_DATA,
    NEEDS_KEY,
    NEEDS_PYTHON,
    PLAYS,
    REMARKS,
    base_name,
    horizon,
)
from trpd_agents.textenv.textarena_load import OwnRandomness, game_class, quiet
from trpd_agents.textenv.time_limit import TimeExpired

TABLE = Path(__file__).parents[1] / "trpd_agents" / "textenv" / "textarena_table.json"
SECONDS = 600.0  # for all that is tried with one game
RESET_SECONDS = 20.0  # of processor time for one reset, so that a busy machine finds the same
STEP_SECONDS = 5.0  # likewise
MOST_PLAYERS = 15
SEEDS = (0, 1, 2, 3)
TURNS = 40
GARBAGE = [
    "",
    "hello",
    "[]",
    "[up]",
    "[1 2]",
    "7" * 5000,
    "[" + "9" * 4000 + "]",
    "\0[0]",
    "[accept]",
    "[0]",
    "[a b c]",
]


def probe(game: str) -> dict[str, Any]:
    """What one game does, as plain data; whatever stops it is raised."""
    made, arguments = game_class(game)
    players = [number for number in range(1, MOST_PLAYERS + 1) if accepts(made, arguments, number)]
    number = players[0] if players else 2
    state = type(Episode(made, arguments, number, 0).game.state).__name__  # raises what it raises
    if state == "TwoPlayerState":  # whatever number it accepts
        number, players = 2, [2]
    elif state != "SinglePlayerState":
        players = [accepted for accepted in players if accepted > 1]
        number = players[0]
    good = [Episode(made, arguments, number, seed).play() for seed in SEEDS]
    bad = [Episode(made, arguments, number, seed).play(garbage=True) for seed in SEEDS]
    more = [Episode(made, arguments, number, SEEDS[0]).play(chance) for chance in (1, 2)]
    again = Episode(made, arguments, number, SEEDS[0]).play()
    alone = Episode(made, arguments, 1, SEEDS[0]).game if players == [1] else None
    return {
        "players": [players[0], players[-1]],
        "turns": horizon(game, alone) if alone is not None else None,
        "seed_matters": len({episode.digest for episode in good}) > 1 or len({episode.digest for episode in bad}) > 1,
        "repeats": again.digest == good[0].digest,
        "digests": [episode.digest for episode in good + bad + more],
        "never_plays": all(episode.fault for episode in good + more),
        "faults": sorted({episode.fault for episode in good + bad + more if episode.fault}),
    }


class Episode:
    """A game that has just been reset, with random numbers of its own, as `TextArenaEnv` plays it."""

    def __init__(self, made: Any, arguments: dict[str, Any], players: int, seed: int):
        self.random = OwnRandomness(seed)
        self.fault = ""
        with self.random, quiet():
            self.game = made(**arguments)
            if isinstance(getattr(self.game, "word_list", None), list):
                self.game.word_list.sort()
            within(RESET_SECONDS, self.game.reset, num_players=players, seed=seed)
        self.said = [fingerprint(self.game)]

    def play(self, chance_seed: int = 0, garbage: bool = False) -> Episode:
        """With moves that the game itself mentions, the latest first, or with garbage between them."""
        chance = random.Random(chance_seed)
        shown: list[str] = []
        for turn in range(TURNS):
            try:
                with self.random, quiet():
                    text = repr(self.game.get_observation())
                    self.said.append(text)
                    shown = (shown + re.findall(r"\[[^\[\]\n]{1,30}\]", text))[-60:]
                    nonsense = not shown or garbage and not turn % 2
                    action = GARBAGE[turn % len(GARBAGE)] if nonsense else chance.choice(shown)
                    done, _ = within(STEP_SECONDS, self.game.step, clean_action(action))
            except (Exception, TimeExpired) as error:
                self.fault = type(error).__name__
                break
            if done:
                self.said.append(repr(self.game.close()))
                break
        return self

    @property
    def digest(self) -> str:
        return hashlib.sha256("".join(self.said).encode("utf-8", "replace")).hexdigest()


def within(seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The call, ended by `TimeExpired` after so many seconds of this process's own time."""

    def expire(*_: object) -> None:
        raise TimeExpired

    signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        return function(*args, **kwargs)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def accepts(made: Any, arguments: dict[str, Any], players: int) -> bool:
    with contextlib.suppress(Exception):
        Episode(made, arguments, players, 0)
        return True
    return False


def fingerprint(game: Any) -> str:
    return hashlib.sha256(repr(plain(game, 0, set())).encode("utf-8", "replace")).hexdigest()


def plain(value: Any, depth: int, above: set[int]) -> Any:
    """Everything that a game has drawn, hidden or not, in an order that does not depend on the process."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if depth > 8 or id(value) in above or callable(value):
        return type(value).__name__
    above = above | {id(value)}
    if isinstance(value, dict):
        return [(str(key), plain(item, depth + 1, above)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(repr(plain(item, depth + 1, above)) for item in value) if len(value) < 1000 else len(value)
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1, above) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    names = [*getattr(value, "__dict__", {}), *getattr(type(value), "__slots__", ())]
    return [type(value).__name__, [(name, plain(getattr(value, name, None), depth + 1, above)) for name in names]]


def in_own_process(game: str) -> dict[str, Any]:
    """`probe`, in a child that may hang or die."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                found = probe(game)
            except BaseException as error:
                found = {"error": type(error).__name__, "message": str(error)}
            os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    text, limit = b"", time.monotonic() + SECONDS
    while select.select([reader], [], [], max(0.0, limit - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        text += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "Timeout", "message": ""}


def everything(games: list[str], hash_seed: int) -> dict[str, dict[str, Any]]:
    """What the games do in a process that orders sets by `hash_seed`."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("API_KEY")}
    environment["PYTHONHASHSEED"] = str(hash_seed)
    command = [sys.executable, __file__, "--probe", *games]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def row(game: str, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The line of the table that two trials of a game make."""
    line: dict[str, Any] = {"id": game, "status": PLAYS, "players": None, "turns": None, "seed_matters": None}
    if "error" in first:
        return {**line, **judged(first["error"], first["message"])}
    for name in ("players", "turns", "seed_matters"):
        line[name] = first[name]
    if base_name(game) in FAULTS:
        return {**line, "status": BROKEN, "note": FAULTS[base_name(game)]}
    if first["never_plays"]:
        return {**line, "status": BROKEN, "note": f"its moves {told(first['faults'])}"}
    notes = []
    if not first["seed_matters"] and first["players"][0] == 1:
        notes.append("the seed has no effect: every episode is the same instance")
    if not first["repeats"] or first["digests"] != second.get("digests", first["digests"]):
        notes.append("the seed does not repeat an episode")
    if first["faults"]:
        notes.append(f"some actions {told(first['faults'])}")
    notes += [REMARKS[name] for name in (base_name(game), game) if name in REMARKS]
    return {**line, "note": "; ".join(notes)}


def told(faults: list[str]) -> str:
    raised = [fault for fault in faults if fault != TimeExpired.__name__]
    hangs = ["never return"] if len(raised) < len(faults) else []
    return " or ".join(hangs + [f"raise {', '.join(raised)}"] * bool(raised))


def judged(error: str, message: str) -> dict[str, str]:
    """The status and the note of a game that could not be started."""
    first_line = message.strip().splitlines()[0] if message.strip() else ""
    first_line = re.sub(r"/\S*/(?=textarena/)", "", first_line)  # where it is installed is nobody's business
    if error in ("Timeout", "TimeExpired"):
        return {"status": BROKEN, "note": f"a reset can take longer than {RESET_SECONDS:g} s"}
    if "API key" in message:
        return {"status": NEEDS_KEY, "note": "it asks an online language model"}
    if error == "LookupError" and "nltk" in message:
        return {"status": NEEDS_DATA, "note": "it needs data of NLTK"}
    if error == "SyntaxError" and first_line.startswith("f-string"):  # PEP 701
        return {"status": NEEDS_PYTHON, "note": "its source needs Python 3.12"}
    if error == "SyntaxError":
        return {"status": BROKEN, "note": f"its source does not compile ({first_line})"}
    return {"status": BROKEN, "note": f"it cannot be started: {error}: {first_line}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", nargs="*", help="only these; the lines of the others stay as they are")
    parser.add_argument("--check", action="store_true", help="compare with the table, and write nothing")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with quiet():
        from textarena.envs.registration import ENV_REGISTRY

    suffixes = ("-raw", "-train")  # the same games in other wrappings
    games = [game for game in ENV_REGISTRY if not game.endswith(suffixes)]
    tried = chosen.games or games
    if chosen.probe:
        print(json.dumps({game: in_own_process(game) for game in tried}))
        return
    first, second = everything(tried, 1), everything(tried, 2)
    rows = {line["id"]: line for line in json.loads(TABLE.read_text(encoding="utf-8"))["games"]}
    rows.update({game: row(game, first[game], second[game]) for game in tried})
    lines = [json.dumps(rows[game]) for game in games]
    version = importlib.metadata.version("textarena")
    text = f'{{"textarena": "{version}", "games": [\n' + ",\n".join(lines) + "\n]}\n"
    if chosen.check:
        same = text == TABLE.read_text(encoding="utf-8")
        print("the table is as measured" if same else "the table is not as measured: run without --check")
        raise SystemExit(0 if same else 1)
    TABLE.write_text(text, encoding="utf-8")
    print(f"{len(lines)} games of textarena {version} in {TABLE}")


if __name__ == "__main__":
    main()
