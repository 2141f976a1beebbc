"""The words that textarena's word games are played with, made from what textarena itself ships.

The games ask NLTK for two word lists and for parts of speech, which NLTK would download. Here they come from
textarena's spelling dictionaries (`envs/utils/data/*.dic`), so that everyone plays the same game, offline: real NLTK
data are not used even where they are installed. Invariant: the words are a function of textarena's files alone. They
are made once per user and kept in the cache directory under a hash of those files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from trpd_agents.user_cache import cache_directory

_RECIPE = 2  # part of the cache's key; another number wherever `_made` makes something else of the same files
_COMMON = 2  # times that a basic word occurs in the texts that textarena's games are played with
_SHORTEST = 3  # letters of a basic word
_DICTIONARIES = ("en_GB.dic", "en_US.dic")
_WORD_LISTS = "textarena.envs.utils.word_lists"


@dataclass(frozen=True)
class Words:
    """`basic`: common words; `english`: all base forms; both sorted. `nouns`: those that take a possessive 's.

    `accepted`: the base forms and what textarena's rules derive from them, which is what its games accept as English.
    """

    basic: list[str]
    english: list[str]
    nouns: frozenset[str]
    accepted: frozenset[str]


@cache
def words() -> Words:
    """The word lists, from the cache where it has them; 50 ms the first time in a process, else nothing."""
    files = _files()
    digest = hashlib.sha256(f"{_RECIPE} {_COMMON} {_SHORTEST}".encode())
    for path in files:
        digest.update(path.read_bytes())
    kept = cache_directory() / f"textarena-words-{digest.hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        return _read(kept)
    made = _made(files)
    with contextlib.suppress(OSError):  # nowhere to keep them: they are made again next time
        _write(kept, made)
    return _words(made)


def _files() -> list[Path]:
    (package,) = importlib.util.find_spec("textarena.envs").submodule_search_locations  # type: ignore[union-attr, misc]
    envs = Path(package)
    data = envs / "utils" / "data"
    return [*(data / name for name in _DICTIONARIES), data / "en.aff", *sorted(envs.glob("*/*.json*"))]


def _made(files: list[Path]) -> dict[str, list[str]]:
    """Every list of `Words`, sorted."""
    british, american = (_entries(path) for path in files[:2])
    counts: Counter[str] = Counter()
    for path in files[3:]:
        counts.update(re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()))
    basic = [w for w in british.keys() & american.keys() if counts[w] >= _COMMON and len(w) >= _SHORTEST]
    english = [w for w in british.keys() | american.keys() if len(w) > 1]  # the letters are entries, too
    # textarena's own rules, with its own mistakes in them: a word is English if they derive it.
    with standing_in(nltk_stand_in((), ())):
        rules = private_module(_WORD_LISTS).EnglishDictionary(include_nltk=False)
    accepted = {*english} | {word for word in rules.get_all_words() if word.isalpha()}
    nouns = [word for word, flags in american.items() if "M" in flags]
    lists = {"basic": basic, "english": english, "nouns": nouns, "accepted": accepted}
    return {name: sorted(made) for name, made in lists.items()}


def _entries(path: Path) -> dict[str, str]:
    """The words of a Hunspell dictionary that are lower-case ASCII letters only, with the flags of their affixes."""
    entries: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:  # the first line is a count
        word, _, flags = line.partition("/")
        if re.fullmatch("[a-z]+", word):
            entries[word] = entries.get(word, "") + flags
    return entries


def _words(lists: dict[str, list[str]]) -> Words:
    return Words(lists["basic"], lists["english"], frozenset(lists["nouns"]), frozenset(lists["accepted"]))


def _read(path: Path) -> Words:
    return _words({name: text.split() for name, text in json.loads(path.read_text(encoding="utf-8")).items()})


def _write(path: Path, lists: dict[str, list[str]]) -> None:
    """Never leaves half a file under `path`, however many processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps({name: " ".join(words) for name, words in lists.items()}), encoding="utf-8")
    half.replace(path)


class _Dictionary:
    """Stands in for textarena's `EnglishDictionary`, which takes seconds to make and is made for every game."""

    def __init__(self, **options: Any):
        pass

    def is_english_word(self, word: str) -> bool:
        return word.lower() in words().accepted

    def get_all_words(self) -> frozenset[str]:
        return words().accepted

    def get_basic_words(self) -> frozenset[str]:
        return frozenset(words().basic)


def word_game(module: str) -> ModuleType:
    """A private copy of the module of a word game, which asks us where it would have asked NLTK.

    Neither NLTK nor the module that anyone else imports is changed.
    """
    lists = words()
    dictionary = ModuleType(_WORD_LISTS)
    dictionary.EnglishDictionary = _Dictionary  # type: ignore[attr-defined]
    with standing_in({**nltk_stand_in(lists.basic, lists.nouns, lists.english), _WORD_LISTS: dictionary}):
        return private_module(module)


def nltk_stand_in(
    basic: Iterable[str], nouns: Iterable[str], english: Iterable[str] = ()
) -> dict[str, ModuleType | None]:
    """As much of NLTK as textarena uses, under the names of its modules."""
    lists = {"en-basic": list(basic), "en": list(english)}
    known = frozenset(nouns)

    class Corpus:
        @staticmethod
        def words(name: str = "en") -> list[str]:
            return list(lists[name])

    def pos_tag(tokens: Iterable[str]) -> list[tuple[str, str]]:
        return [(token, "NN" if token in known else "X") for token in tokens]

    nltk, corpus = ModuleType("nltk"), ModuleType("nltk.corpus")
    vars(corpus).update(words=Corpus)
    vars(nltk).update(corpus=corpus, pos_tag=pos_tag, download=lambda *args, **kwargs: False)
    return {"nltk": nltk, "nltk.corpus": corpus}


def private_module(name: str) -> Any:
    """The module `name`, executed again and known to nobody else."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def standing_in(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Imports inside `with` find `modules` under their names."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
