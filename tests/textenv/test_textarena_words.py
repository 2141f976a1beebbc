"""Word games without a download: the same words for everyone, made once, and NLTK left as it was."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trpd_agents.textenv import make, textarena_words
from trpd_agents.textenv.textarena_games import WORD_GAMES, base_name, single_player
from trpd_agents.textenv.textarena_load import OwnRandomness, factory
from trpd_agents.textenv.textarena_words import words

ALONE = [game for game in single_player() if base_name(game) in WORD_GAMES]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a process that has not read it."""
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "cache"))
    words.cache_clear()
    yield tmp_path / "cache"
    words.cache_clear()


def test_the_words_are_common_ones_nouns_and_everything_the_games_accept() -> None:
    lists = words()
    assert 1500 < len(lists.basic) < 2500 and 40_000 < len(lists.english) < 60_000
    assert {"apple", "water", "music"} <= set(lists.basic) & lists.nouns
    assert "their" in lists.basic and "slowly" not in lists.nouns
    assert set(lists.basic) <= set(lists.english) <= lists.accepted
    assert {"walks", "walked", "walking"} <= lists.accepted and "qqq" not in lists.accepted
    assert lists.basic == sorted(lists.basic) and all(re.fullmatch("[a-z]{3,}", word) for word in lists.basic)


def test_they_are_made_once_and_kept_whole(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = words()
    (kept,) = fresh.iterdir()  # nothing half-written beside it
    words.cache_clear()
    with monkeypatch.context() as unable:
        unable.setattr(textarena_words, "_made", lambda files: pytest.fail("made again"))
        assert words() == first
        assert words() is words()
    for broken in ("[]", json.dumps({"basic": "a b"})):
        kept.write_text(broken)
        words.cache_clear()
        assert words() == first
    assert json.loads(kept.read_text())["basic"].split() == first.basic  # and mended


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = words()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "file"))
    words.cache_clear()
    assert words() == first
    words.cache_clear()


@pytest.mark.parametrize("game", ALONE)
def test_nothing_is_downloaded_and_nltk_is_left_alone(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nltk: Any = importlib.import_module("nltk")
    importlib.import_module("nltk.corpus")

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr(nltk, "download", no_network)
    monkeypatch.setattr(nltk.data, "path", [])
    before = {name: module for name, module in sys.modules.items() if name.startswith(("nltk", "textarena.envs.utils"))}
    state = dict(vars(nltk)), dict(vars(nltk.corpus))
    env = make(f"textarena/{game}")
    env.reset(0)
    env.step("[apple]")
    assert {name: sys.modules.get(name) for name in before} == before
    assert (dict(vars(nltk)), dict(vars(nltk.corpus))) == state
    assert f"textarena.envs.{base_name(game)}.env" not in sys.modules  # anyone else's would be the real one


@pytest.mark.parametrize("game", ["DontSayIt-v0", "LetterAuction-v0", "SpellingBee-v0", "WordChains-v0"])
def test_games_for_two_have_words_too(game: str) -> None:
    with OwnRandomness(0):
        played = factory(game, {})()
        played.reset(num_players=2, seed=0)
    assert played.state.get_current_player_observation()


def test_other_games_do_not_ask_nltk() -> None:
    envs = Path(str(importlib.import_module("textarena").__file__)).parent / "envs"
    asking = {
        path.parent.name for path in envs.glob("*/env.py") if re.search("nltk|word_lists", path.read_text("utf-8"))
    }
    assert asking == WORD_GAMES


def test_a_seed_is_the_same_game_in_every_process() -> None:
    code = (
        "from trpd_agents.textenv import make\n"
        "from trpd_agents.textenv.textarena_load import OwnRandomness, factory\n"
        "for game in ('Wordle-v0', 'Hangman-v0-hardcore', 'WordLadder-v0', 'WordSearch-v0'):\n"
        "    env = make(f'textarena/{game}')\n"
        "    print(env.reset(3), env.env.unwrapped._played.state.game_state)\n"
        "with OwnRandomness(5):\n"
        "    chain = factory('WordChains-v0', {})(); chain.reset(num_players=2, seed=5)\n"
        "print(chain.state.game_state['current_word'])\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1


def test_games_are_worth_playing() -> None:
    """Secrets differ, are of the right length, and a word that is none is refused."""
    env = make("textarena/Wordle-v0")
    secrets = set()
    for seed in range(20):
        env.reset(seed)
        secrets.add(env.env.unwrapped._played.state.game_state["secret_word"])  # type: ignore[attr-defined]
    assert len(secrets) > 12 and {len(secret) for secret in secrets} == {5}
    assert not env.step("[qqqqq]").ok
    assert env.step(f"[{random.Random(0).choice(sorted(secrets))}]").ok
