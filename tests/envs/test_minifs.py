"""MiniFS: what is overwritten is lost, plans are as short as a search finds them, and no call grows the tree unduly."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from trpd_envs import format_call
from trpd_envs.minifs import MiniFS, Tree, actions_needed

ARGUMENTS = {name: tuple(spec) for name, spec in (
    (tool["function"]["name"], tool["function"]["parameters"]["properties"]) for tool in MiniFS.tools
)}  # fmt: skip


def call(env: MiniFS, name: str, *values: str) -> tuple[str, bool]:
    arguments = dict(zip(ARGUMENTS[name], values, strict=False))
    observation, _, _, _, info = env.step(format_call(name, **arguments))
    return observation, info["ok"]


def started(files: dict[str, str], wanted: dict[str, str], directories: tuple[str, ...] = (), **kwargs: Any) -> MiniFS:
    env = MiniFS(max_turns=kwargs.pop("max_turns", 100), **kwargs)
    env.reset(seed=0)
    env.tree = Tree(dict(files), set(directories), set(wanted.values()) - set(files.values()))
    env.wanted = Tree(dict(wanted), set(directories), set())
    return env


def solve(env: MiniFS) -> list[str]:
    """Plays the expert's calls and returns them in short."""
    steps = []
    while (action := env.expert()) is not None:
        data = json.loads(action.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        steps.append(" ".join([data["name"], *data["arguments"].values()]))
        assert env.step(action)[4]["ok"]
    return steps


def after(tree: Tree, name: str, source: str, target: str) -> Tree:
    found = tree.copy()
    if name in ("mv", "cp"):
        found.files[target] = tree.files[source]
    if name in ("mv", "rm"):
        del found.files[source]
    elif name == "cat":
        found.known.add(tree.files[source])
    return found


def fewest(tree: Tree, wanted: Tree, most: int) -> int | None:
    """By breadth-first search over files in the root: up to `most` actions, or None."""
    places = sorted({*tree.files, *wanted.files, "other.txt", "another.txt"})
    layer, seen, depth = [tree], set(), 0
    while layer and depth <= most:
        following = []
        for state in layer:
            if state.files == wanted.files:
                return depth
            reached = [
                after(state, name, source, target)
                for name in ("mv", "cp")
                for source in state.files
                for target in places
                if source != target
            ]
            reached += [after(state, name, source, "") for name in ("rm", "cat") for source in state.files]
            for target in places:
                for text in state.known:
                    reached.append(state.copy())
                    reached[-1].files[target] = text
            for found in reached:
                key = (frozenset(found.files.items()), frozenset(found.known))
                if key not in seen:
                    seen.add(key)
                    following.append(found)
        layer, depth = following, depth + 1
    return None


def test_actions_needed_are_those_that_a_search_finds() -> None:
    rng = random.Random(3)
    counts = {None: 0, 0: 0, 1: 0, 2: 0, 3: 0}
    for _ in range(400):
        paths, texts = ["a.txt", "b.txt", "c.txt"][: rng.randint(2, 3)], "tuv"[: rng.randint(1, 3)]
        files, wanted = ({path: rng.choice(texts) for path in paths if rng.random() < 0.8} for _ in range(2))
        tree = Tree(files, set(), {text for text in texts if rng.random() < 0.1})
        needed = actions_needed(tree, Tree(wanted, set(), set()))
        if needed is None or needed <= 3:
            assert fewest(tree, Tree(wanted, set(), set()), needed or 2) == needed, (tree, wanted)
            counts[needed] += 1
    assert min(counts.values()) > 10


RINGS: list[tuple[str, str, int]] = [
    # what lies at a, b, c, d, e (a stroke: nothing), what is wanted there, calls
    ("xy---", "yx---", 3),  # one has to step aside
    ("xyz--", "yzx--", 4),
    ("xyzw-", "yxwz-", 6),  # two rings
    ("xyzj-", "yzx--", 4),  # over an unwanted file, which then need not be removed
    ("xyzwj", "yxwz-", 6),  # one over the unwanted file, one over a free place
    ("xyx--", "yxx--", 2),  # a copy that stays
    ("xyx--", "yx---", 2),  # a copy that goes where it is wanted
    ("xyz--", "zxy--", 4),
    ("xxy--", "yyx--", 3),  # two copies: the first may be overwritten
    ("xy---", "-x---", 1),
]


@pytest.mark.parametrize(("now", "wanted", "calls"), RINGS)
def test_rings_take_one_call_more_unless_something_is_to_spare(now: str, wanted: str, calls: int) -> None:
    files, goal = (
        {f"{p}.txt": text for p, text in zip("abcde", side, strict=True) if text != "-"} for side in (now, wanted)
    )
    env = started(files, goal)
    assert len(solve(env)) == calls and env.success


@pytest.mark.parametrize("kwargs", [{}, {"files": 8, "directories": 4, "changes": 12}, {"files": 1, "directories": 0}])
def test_the_order_says_what_is_wanted_and_the_hint_how(kwargs: dict[str, Any]) -> None:
    kinds, rings = set(), 0
    for seed in range(40):
        env = MiniFS(**kwargs)
        observation, info = env.reset(seed=seed)
        origins = dict(env.tree.files)
        listed, now = re.fullmatch(r"Wanted: (.*)\. Now: (.*)\.", observation).groups()
        assert now.split(", ") == sorted([*origins, *(f"{path}/" for path in env.tree.directories)])
        wanted: dict[str, str] = {}
        for entry in listed.split(", ") if listed != "nothing" else []:
            path, _, what = entry.partition(" ")
            kind, _, source = what.partition(" ")
            kinds.add(kind)
            if not path.endswith("/"):
                wanted[path] = json.loads(source) if kind == "with" else origins[source or path]
        assert wanted == env.wanted.files
        assert not any(text in observation for text in origins.values()), "no text is told that lies in a file"
        for step in info["hint"].removeprefix("A way is: ").removesuffix(".").split(", "):
            name, *values = step.split(" ", 2)
            rings += values[-1].endswith("spare.txt") and name == "mv"
            assert call(env, name, *(value.strip('"') for value in values))[1]
        assert env.success and env.turn == env.changes
    assert kinds >= {"", "kept", "from", "with"} and (rings or env.n_files < 8)


def test_a_text_whose_last_copy_is_gone_is_lost_unless_it_was_read() -> None:
    for destroy in [("rm", "a.txt"), ("mv", "b.txt", "a.txt"), ("cp", "b.txt", "a.txt"), ("write", "a.txt", "hm")]:
        env = started({"a.txt": "red fox", "b.txt": "owl"}, {"c.txt": "red fox", "b.txt": "owl"})
        assert env.expert() == format_call("mv", source="a.txt", target="c.txt")
        observation, ok = call(env, *destroy)
        assert ok and "lost" not in observation and "overw" not in observation
        assert env.expert() is None and env.optimal_actions() == [] and env.legal_actions() and not env.over
        env = started({"a.txt": "red fox", "b.txt": "owl"}, {"c.txt": "red fox", "b.txt": "owl"})
        assert call(env, "cat", "a.txt") == ('a.txt: "red fox".', True)
        call(env, *destroy)
        assert "write c.txt red fox" in solve(env) and env.success
        env = started({"a.txt": "red fox", "b.txt": "owl"}, {"c.txt": "red fox", "b.txt": "owl"})
        call(env, "cp", "a.txt", "elsewhere.txt")
        call(env, *destroy)
        assert "mv elsewhere.txt c.txt" in solve(env) and env.success


def test_the_tools() -> None:
    env = started({"a.txt": "x", "docs/b.txt": "y"}, {"none.txt": "x"}, ("docs", "docs/old"))
    assert call(env, "ls") == ("root: a.txt, docs/.", True) == call(env, "ls", "/") == call(env, "ls", ".")
    assert call(env, "ls", "/docs/") == ("docs: b.txt, old/.", True)
    assert call(env, "ls", "docs/old") == ("docs/old: empty.", True)
    assert call(env, "mkdir", "docs/old/new") == ("Made docs/old/new.", True)
    assert call(env, "cp", "a.txt", "docs/old/new/c.txt") == ("Copied a.txt to docs/old/new/c.txt.", True)
    assert call(env, "mv", "/docs/b.txt", "docs/old/b.txt") == ("Moved docs/b.txt to docs/old/b.txt.", True)
    assert call(env, "write", "d.txt", 'a "quote" </tool_call>') == ("Wrote d.txt.", True)
    assert call(env, "cat", "d.txt") == (r'd.txt: "a \"quote\" \u003c/tool_call>".', True)
    assert call(env, "rm", "d.txt") == ("Removed d.txt.", True)
    assert env.tree.files == {"a.txt": "x", "docs/old/new/c.txt": "x", "docs/old/b.txt": "y"}
    assert env.tree.directories == {"docs", "docs/old", "docs/old/new"}


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (("ls", "nowhere"), 'No directory "nowhere".'),
        (("cat", "b.txt"), 'No file "b.txt".'),
        (("cat", "docs"), 'No file "docs".'),
        (("mv", "docs", "b.txt"), 'No file "docs".'),
        (("mv", "a.txt", "/a.txt"), "Source and target are the same."),
        (("cp", "a.txt", "a.txt"), "Source and target are the same."),
        (("cp", "a.txt", "docs"), "A file has a name"),
        (("cp", "a.txt", "docs/.txt"), "A file has a name"),
        (("cp", "a.txt", "../b.txt"), 'No directory "..".'),
        (("cp", "a.txt", "docs//b.txt"), 'No directory "docs/".'),
        (("mv", "a.txt", "old/b.txt"), 'No directory "old".'),
        (("write", "B.txt", "x"), "A file has a name"),
        (("write", "b.txt\n", "x"), "A file has a name"),
        (("write", "", "x"), "A file has a name"),
        (("write", "b.txt", "x" * 41), "A text has at most 40 characters."),
        (("write", "b" * 21 + ".txt", "x"), "A file has a name of at most 20"),
        (("rm", "docs"), "docs is not empty."),
        (("rm", ""), 'No file "".'),
        (("mkdir", "docs"), "docs is there already."),
        (("mkdir", "b.txt"), "A directory has a name"),
        (("mkdir", ""), "A directory has a name"),
        (("mkdir", "docs/one/two"), 'No directory "docs/one".'),
        (("mkdir", "1/2/3/4/5"), "A path has at most 4 names."),
        (("cp", "a.txt", "1/2/3/4/b.txt"), "A path has at most 4 names."),
        (("mkdir", "x" * 50_000), "A directory has a name"),
        (("cat", "x/" * 40_000), 'No file "x/x/'),
    ],
)
def test_refusals_change_nothing(action: tuple[str, ...], why: str) -> None:
    env = started({"a.txt": "x", "docs/c.txt": "y"}, {"b.txt": "x"}, ("docs", "1", "1/2", "1/2/3", "1/2/3/4"))
    before = env.tree.copy()
    observation, ok = call(env, *action)
    assert not ok and observation.startswith(why) and len(observation) < 200 and env.tree == before


def test_whatever_is_called_the_tree_stays_small_and_the_expert_keeps_its_word() -> None:
    rng = random.Random(4)
    for seed in range(40):
        env = MiniFS(max_turns=60)
        env.reset(seed=seed)
        size = len(env.tree.files) + len(env.tree.directories)
        while not env.over:
            words = [*env.tree.files, *env.tree.directories, "new.txt", "new", "", "..", "\0", "é" * 30, "docs/x/y/z/t"]
            name = rng.choice(list(ARGUMENTS))
            call(env, name, rng.choice(words), rng.choice(words))
            needed = actions_needed(env.tree, env.wanted)
            assert (env.expert() is None) == (env.over or needed is None or needed > env.turns_left)
        assert len(env.tree.files) + len(env.tree.directories) <= size + env.turn
        assert all(len(text) <= 40 for text in env.tree.files.values())


def test_nothing_but_the_wanted_tree_ends_the_episode() -> None:
    env = started({"a.txt": "x", "b.txt": "y"}, {"a.txt": "y"}, ("docs",))
    call(env, "mv", "b.txt", "a.txt")
    assert env.success and env.over
    env = started({"a.txt": "x", "b.txt": "y"}, {"a.txt": "y"}, ("docs",))
    call(env, "cp", "b.txt", "a.txt")
    assert not env.over
    call(env, "mkdir", "docs/old")
    call(env, "rm", "b.txt")
    assert not env.over  # a directory too many
    call(env, "rm", "docs/old")
    assert env.success


@pytest.mark.parametrize(
    "kwargs",
    [
        {"files": 0},
        {"files": 9},
        {"directories": -1},
        {"directories": 5},
        {"changes": 0},
        {"changes": 13},
        {"max_turns": 3},
        {"max_turns": 10**6},
    ],
)
def test_knobs(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(kwargs))}=.*wanted"):
        MiniFS(**kwargs)
