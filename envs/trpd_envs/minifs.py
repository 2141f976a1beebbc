"""MiniFS: bring a small file tree into an ordered state with `mv`, `cp`, `rm`, `write` and `mkdir`.

Rules: paths lead from the root, such as `docs/plan.txt`; names of files end in .txt and those of directories do not.
`mv`, `cp` and `write` overwrite a file without a word; `rm` removes a file, or a directory that is empty. The order
lists every file and directory that is wanted, each file with its text or with the file that holds the text at the
start; no other text is told, but `cat` shows one. So a text whose last copy was removed or overwritten is lost, unless
it was read before: then it can be written again.
Success: the tree equals the wanted one after any action, which ends the episode with reward 1. Horizon: `changes`
calls.
What is hard: an action must not destroy what a later one needs, files whose names are to be exchanged have to go
through a third place, and the tree is shown at the start and by `ls` only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from trpd_envs.base import check_int
from trpd_envs.schema import quote
from trpd_envs.tools import ToolEnv, ToolError, format_call, tool

NAMES = (
    "bills", "budget", "diary", "draft", "essay", "goals", "ideas", "index", "letter", "lists",
    "log", "menu", "names", "notes", "plan", "recipe", "report", "songs", "tasks", "travel",
)  # fmt: skip
DIRECTORIES = ("archive", "backup", "docs", "home", "inbox", "old", "photos", "private", "public", "shared", "work")
_COLOURS = ("amber", "black", "blue", "brown", "gold", "green", "grey", "pink", "red", "silver", "white", "yellow")
_ANIMALS = ("bear", "crow", "deer", "duck", "eel", "fox", "goat", "hare", "lynx", "mole", "newt", "owl", "seal", "wolf")

_LONGEST_TEXT = 40  # characters; an observation can show so many
_DEEPEST = 4  # names in a path
_NAME = re.compile(r"[a-z0-9_-]{1,20}")
_SPARE = "spare.txt"  # where legal actions put a file that is in the way
_ARGUMENTS = {
    "ls": ("path",),
    "cat": ("path",),
    "rm": ("path",),
    "mkdir": ("path",),
    "mv": ("source", "target"),
    "cp": ("source", "target"),
    "write": ("path", "text"),
}

_Action = tuple[str, ...]  # the tool and its arguments


@dataclass
class Tree:
    """Files with their texts, directories, and the texts that the player knows. All bounded by the number of turns."""

    files: dict[str, str]
    directories: set[str]
    known: set[str]

    def copy(self) -> Tree:
        return Tree(self.files.copy(), self.directories.copy(), self.known.copy())

    def like(self, other: Tree) -> bool:
        return self.files == other.files and self.directories == other.directories

    def apply(self, action: _Action) -> None:
        """Do what is known to be possible."""
        name, path, *rest = action
        if name in ("mv", "cp"):
            self.files[rest[0]] = self.files[path]
        if name in ("mv", "rm"):
            self.files.pop(path, None)
            self.directories.discard(path)
        elif name == "write":
            self.files[path] = rest[0]
            self.known.add(rest[0])
        elif name == "mkdir":
            self.directories.add(path)
        elif name == "cat":
            self.known.add(self.files[path])

    def inside(self, directory: str) -> list[str]:
        """What lies in a directory: the names of files, and of directories with a stroke."""
        found = [path for path in self.files if _parent(path) == directory]
        found += [f"{path}/" for path in self.directories if _parent(path) == directory]
        return sorted(path.removeprefix(directory).lstrip("/") for path in found)

    def has_place_for(self, path: str) -> bool:
        return not (parent := _parent(path)) or parent in self.directories


class MiniFS(ToolEnv):
    """See the module's docstring.

    Knobs: `files` 1 to 8 and `directories` 0 to 4 at the start; `changes` 1 to 12, the fewest calls from there to the
    wanted tree; `max_turns` from `changes` to 200 (`2 * changes + 2` by default).
    """

    instructions = (
        "Make the tree as wanted, with nothing else in it. A file wanted from another has the text that the other has "
        "at the start. Call one tool each turn."
    )
    in_process = True

    def __init__(self, files: int = 4, directories: int = 2, changes: int = 4, max_turns: int | None = None):
        self.n_files = check_int("files", files, 1, 8)
        self.n_directories = check_int("directories", directories, 0, 4)
        self.changes = check_int("changes", changes, 1, 12)
        # The limit bounds the tree, too: an action adds one file or directory at most.
        super().__init__(2 * changes + 2 if max_turns is None else check_int("max_turns", max_turns, changes, 200))

    def start(self) -> str:
        rng = self.python_random()
        texts = [f"{colour} {animal}" for colour in _COLOURS for animal in _ANIMALS]
        rng.shuffle(texts)
        self.tree = Tree({}, set(), set())
        for name in rng.sample(DIRECTORIES, self.n_directories):
            self.tree.directories.add(_join(rng.choice(["", *_outer(self.tree)]), name))
        while len(self.tree.files) < self.n_files:
            self.tree.files.setdefault(_random_path(rng, self.tree), texts[len(self.tree.files)])
        self.wanted = _change(rng, self.tree, self.changes, texts[self.n_files :])
        self.tree.known = set(self.wanted.files.values()) - set(self.tree.files.values())
        origins = {text: path for path, text in self.tree.files.items()}
        wanted = {f"{path}/": "" for path in self.wanted.directories}
        for path, text in self.wanted.files.items():
            origin = origins.get(text)
            wanted[path] = (
                f" with {quote(text)}" if origin is None else " kept" if origin == path else f" from {origin}"
            )
        listed = ", ".join(f"{path}{wanted[path]}" for path in sorted(wanted))
        now = ", ".join(sorted([*self.tree.files, *(f"{path}/" for path in self.tree.directories)]))
        return f"Wanted: {listed or 'nothing'}. Now: {now}."

    def hint(self) -> str:
        tree, steps = self.tree.copy(), []
        while not tree.like(self.wanted):
            action = next(_best(tree, self.wanted))
            steps.append(" ".join([*action[:-1], quote(action[-1]) if action[0] == "write" else action[-1]]))
            tree.apply(action)
        return f"A way is: {', '.join(steps)}."

    @tool
    def ls(self, path: str = "") -> str:
        """List a directory.

        Args:
            path: the directory; the root if left out
        """
        directory = "" if path in (".", "/") else path.strip("/")
        if directory and directory not in self.tree.directories:
            raise ToolError(f"No directory {quote(path)}.")
        return f"{directory or 'root'}: {', '.join(self.tree.inside(directory)) or 'empty'}."

    @tool
    def cat(self, path: str) -> str:
        """Show the text of a file."""
        path = self._file(path)
        self.tree.apply(("cat", path))
        return f"{path}: {quote(self.tree.files[path])}."

    @tool
    def mv(self, source: str, target: str) -> str:
        """Move a file to a path."""
        source, target = self._file(source), self._place(target)
        if source == target:
            raise ToolError("Source and target are the same.")
        return self._do(("mv", source, target), f"Moved {source} to {target}.")

    @tool
    def cp(self, source: str, target: str) -> str:
        """Copy a file to a path."""
        source, target = self._file(source), self._place(target)
        if source == target:
            raise ToolError("Source and target are the same.")
        return self._do(("cp", source, target), f"Copied {source} to {target}.")

    @tool
    def rm(self, path: str) -> str:
        """Remove a file or an empty directory."""
        directory = path.strip("/")
        if directory not in self.tree.directories:
            path = self._file(path)
            return self._do(("rm", path), f"Removed {path}.")
        if self.tree.inside(directory):
            raise ToolError(f"{directory} is not empty.")
        return self._do(("rm", directory), f"Removed {directory}.")

    @tool
    def write(self, path: str, text: str) -> str:
        """Write a file."""
        path = self._place(path)
        if len(text) > _LONGEST_TEXT:
            raise ToolError(f"A text has at most {_LONGEST_TEXT} characters.")
        return self._do(("write", path, text), f"Wrote {path}.")

    @tool
    def mkdir(self, path: str) -> str:
        """Make a directory."""
        directory = path.strip("/")
        self._check_parent(directory)
        if not _NAME.fullmatch(directory.rpartition("/")[2]):
            raise ToolError("A directory has a name of at most 20 of the characters a-z, 0-9, _ and -.")
        if directory in self.tree.directories:
            raise ToolError(f"{directory} is there already.")
        return self._do(("mkdir", directory), f"Made {directory}.")

    def expert(self) -> str | None:
        """A shortest way's next call; None when a wanted text is lost, the turns do not suffice, and after the end."""
        return next(self._optimal(), None)

    def optimal_actions(self) -> list[str]:
        """Every one of the legal actions that begins a shortest way; none when none fits in the turns left."""
        return list(self._optimal())

    def legal_actions(self) -> list[str]:
        """Every call that would be accepted, but of paths only those in the tree, the wanted ones and one to spare.

        Of texts only wanted ones that the player knows.
        """
        return [] if self.over else [_call(action) for action in _possible(self.tree, self.wanted)]

    def _optimal(self) -> Iterator[str]:
        needed = None if self.over else actions_needed(self.tree, self.wanted)
        if needed is not None and needed <= self.turns_left:
            yield from map(_call, _best(self.tree, self.wanted))

    def _do(self, action: _Action, observation: str) -> str:
        self.tree.apply(action)
        if self.tree.like(self.wanted):
            self.finish(success=True)
        return observation

    def _file(self, path: str) -> str:
        """The path of a file that is there."""
        if (found := path.strip("/")) not in self.tree.files:
            raise ToolError(f"No file {quote(path)}.")
        return found

    def _place(self, path: str) -> str:
        """The path where a file is or could be."""
        place = path.strip("/")
        self._check_parent(place)
        name = place.rpartition("/")[2]
        if not name.endswith(".txt") or not _NAME.fullmatch(name.removesuffix(".txt")):
            raise ToolError("A file has a name of at most 20 of the characters a-z, 0-9, _ and -, and ends in .txt.")
        return place

    def _check_parent(self, path: str) -> None:
        if not self.tree.has_place_for(path):
            raise ToolError(f"No directory {quote(_parent(path))}.")
        if path.count("/") >= _DEEPEST:
            raise ToolError(f"A path has at most {_DEEPEST} names.")


def actions_needed(tree: Tree, wanted: Tree) -> int | None:
    """The fewest actions from one tree to another, None when a wanted text is lost.

    Every directory of only one of them takes one action, every wanted file that is missing or wrong one, and every
    unwanted file one, unless it is moved to where its text is wanted. That suffices but for one thing: where wrong
    files hold each other's texts in a ring, and no other copy is left, one of them has to step aside. Any unwanted
    file that would only be removed can be overwritten by it and moved in its place, else it is one action more.
    """
    wrong = [path for path, text in wanted.files.items() if tree.files.get(path) != text]
    unwanted = Counter(text for path, text in tree.files.items() if path not in wanted.files)
    safe = {text for path, text in tree.files.items() if wanted.files.get(path) == text} | tree.known | set(unwanted)
    needs = Counter(wanted.files[path] for path in wrong)
    holders: dict[str, list[str]] = {}
    for path in wrong:
        if path in tree.files:
            holders.setdefault(tree.files[path], []).append(path)
    if any(text not in safe and text not in holders for text in needs):
        return None
    removed = unwanted.total() - sum(min(count, unwanted[text]) for text, count in needs.items())
    # Texts with one copy left, which has to go to one place: each leads to the text that is wanted where it lies.
    following = {
        text: wanted.files[paths[0]]
        for text, paths in holders.items()
        if len(paths) == 1 and needs[text] == 1 and text not in safe
    }
    rings = 0
    while following:
        first, text = following.popitem()
        while text != first and text in following:
            text = following.pop(text)
        rings += text == first
    return len(tree.directories ^ wanted.directories) + len(wrong) + removed + max(0, rings - removed)


def _best(tree: Tree, wanted: Tree) -> Iterator[_Action]:
    """The actions that leave one action less to do, in a natural order."""
    needed = actions_needed(tree, wanted)
    for action in _possible(tree, wanted):
        if action[0] != "ls":
            after = tree.copy()
            after.apply(action)
            left = actions_needed(after, wanted)
            if left is not None and needed is not None and left < needed:
                yield action


def _possible(tree: Tree, wanted: Tree) -> Iterator[_Action]:
    """The actions that are listed as legal, each once, those first that one thinks of first."""
    for path in sorted(wanted.directories - tree.directories):
        if tree.has_place_for(path):
            yield "mkdir", path
    wrong = [path for path, text in wanted.files.items() if tree.files.get(path) != text]
    places = [path for path in dict.fromkeys([*wrong, *wanted.files, *tree.files, _SPARE]) if tree.has_place_for(path)]
    for right in (True, False):
        for target in places:
            text = wanted.files.get(target)
            sources = [path for path, held in tree.files.items() if path != target and (held == text) == right]
            sources.sort(key=wanted.files.__contains__)  # stable: what has to go anyway comes first
            yield from (("mv", source, target) for source in sources)
            yield from (("cp", source, target) for source in sources)
            texts = sorted(tree.known.intersection(wanted.files.values()))
            yield from (("write", target, known) for known in texts if (known == text) == right)
        if right:
            unwanted = [path for path in tree.files if path not in wanted.files]
            yield from (("rm", path) for path in unwanted)
            empty = [path for path in sorted(tree.directories) if not tree.inside(path)]
            yield from (("rm", path) for path in empty)
    yield from (("rm", path) for path in tree.files if path in wanted.files)
    yield from (("cat", path) for path in tree.files)
    yield from (("ls", path) for path in ["", *sorted(tree.directories)])


def _change(rng: Random, start: Tree, changes: int, texts: list[str]) -> Tree:
    """A random tree that is exactly so many actions away. Each change that is drawn has to make the way longer."""
    tree = start.copy()
    done = 0
    while done < changes:
        after = tree.copy()
        files = sorted(after.files)
        # Every other place is that of a file: then its text has to go first, or is overwritten.
        target = rng.choice(files) if files and rng.random() < 0.5 else _random_path(rng, after)
        kind = rng.choice(("mv", "mv", "mv", "cp", "write", "rm", "mkdir", "swap"))
        if kind == "mkdir":
            after.apply(("mkdir", _join(rng.choice(["", *_outer(after)]), rng.choice(DIRECTORIES))))
        elif kind == "write":
            after.apply(("write", target, texts[done]))
        elif not files:
            continue
        elif kind == "swap":
            one, other = rng.choice(files), rng.choice(files)
            after.files[one], after.files[other] = after.files[other], after.files[one]
        elif kind == "rm":
            after.apply(("rm", rng.choice(files)))
        elif (source := rng.choice(files)) != target:
            after.apply((kind, source, target))
        needed = actions_needed(Tree(start.files, start.directories, set(texts)), after)
        if needed is not None and done < needed <= changes:
            tree, done = after, needed
    return tree


def _outer(tree: Tree) -> list[str]:
    """The directories that lie in the root."""
    return sorted(path for path in tree.directories if not _parent(path))


def _random_path(rng: Random, tree: Tree) -> str:
    return _join(rng.choice(["", *sorted(tree.directories)]), f"{rng.choice(NAMES)}.txt")


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _call(action: _Action) -> str:
    name, *values = action
    return format_call(name, **dict(zip(_ARGUMENTS[name], values, strict=True)))
