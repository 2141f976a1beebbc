"""Every check finds the fault it is there for: each environment below is sound but for what is planted in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest

from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.checks import Finding, Settings, Verdict, examine
from trpd_agents.textenv.checks.child import CHECKS, run_check
from trpd_agents.textenv.checks.probe import Probe

SOUND = """
    import os, random, sys, threading, time
    import gymnasium
    import numpy as np
    from trpd_envs import Text

    class Sound(gymnasium.Env):
        observation_space = action_space = Text()
        instructions = "Say the number."
        max_turns = 4

        def __init__(self):
            self.over = True

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.turn, self.over = 0, False
            self.number = str(self.draw())
            return f"Say {self.number}.", {}

        def draw(self):
            return self.np_random.integers(1000)

        def step(self, action):
            if self.over:
                raise gymnasium.error.ResetNeeded("over")
            self.turn += 1
            right = self.right(action)
            self.over = right or self.turn >= 4
            return self.answer(action), float(right), right, self.over and not right, {"success": right}

        def right(self, action):
            return action == self.number

        def answer(self, action):
            return f"Turn {self.turn}."

        def expert(self):
            return None if self.over else self.number

    class Planted(Sound):
"""
Write = Callable[[str], str]
QUICK = Settings(seeds=4, seconds=2.0, budget=2.0)


@pytest.fixture
def planted(tmp_path: Path) -> Write:
    """The name of an environment with a fault in its body."""

    def write(body: str) -> str:
        (tmp_path / "env.py").write_text(dedent(SOUND) + indent(dedent(body).strip("\n"), "    ") + "\n")
        return f"{tmp_path / 'env.py'}:Planted"

    return write


def by_check(found: list[Finding]) -> dict[str, list[Finding]]:
    grouped: dict[str, list[Finding]] = {}
    for finding in found:
        grouped.setdefault(finding.check, []).append(finding)
    return grouped


def worst(found: list[Finding]) -> dict[str, Verdict]:
    order = (Verdict.OK, Verdict.SKIPPED, Verdict.WARNING, Verdict.ERROR)
    return {check: max((f.verdict for f in group), key=order.index) for check, group in by_check(found).items()}


def test_a_sound_environment_has_no_faults(planted: Write) -> None:
    found = worst(examine(planted("pass"), QUICK))
    assert {check for check, verdict in found.items() if verdict is not Verdict.OK} == {"tools"}
    assert list(found) == [*CHECKS, "process", "output"] and found["tools"] is Verdict.SKIPPED


E, W = Verdict.ERROR, Verdict.WARNING

FAULTS = {
    "a constructor that raises": ("def __init__(self): raise OSError('no disk')", "construction", E, "no disk"),
    "numbers observed": ("observation_space = gymnasium.spaces.Discrete(3)", "spaces", E, "Discrete(3)"),
    "the default character set": ("observation_space = gymnasium.spaces.Text(100)", "spaces", W, "62 letters"),
    "a space that is too short": ("observation_space = Text(5)", "spaces", W, "takes 0 to 5"),
    "no spaces": ("observation_space = action_space = None", "spaces", W, "not declared"),
    "an observation that is no text": ("def answer(self, action): return 7", "episodes", E, "type int"),
    "tools that are not JSON": ("tools = [{'name': 'x', 'set': {1}}]", "episodes", E, "written as JSON"),
    "instructions that are no text": ("instructions = 5", "episodes", E, "`instructions` is a string"),
    "no success": (
        "def step(self, action): return (*super().step(action)[:4], {})", "episodes", E, "nobody can say"
    ),
    "no success in a long episode": (
        "max_turns = 1000\ndef step(self, action): return 'On.', 0.0, False, False, {}",
        "success", E, "up to the last turn",
    ),
    "a success that is 1": (
        "def step(self, action): return (*super().step(action)[:4], {'success': 1})", "episodes", E, "is 1 of type int"
    ),
    "no turn limit": ("max_turns = None", "turn limit", E, "no turn limit"),
    "a turn limit that is passed": ("max_turns = 3", "turn limit", E, "had not ended after 3 steps"),
    "an expert that is wrong now and then": (
        "def expert(self): return self.number if int(self.number) % 2 else 'x'", "expert", W, "of 4 episodes"
    ),
    "an expert that is always wrong": (
        "def expert(self): return None if self.over else '-1'", "expert", E, "0 of 4 episodes"
    ),
    "an expert that changes the state": (
        "def expert(self):\n    self.turn += 0 if self.over else 1\n    return super().expert()",
        "expert", E, "changes the episode",
    ),
    "an expert that changes its mind": (
        "asked = 0\ndef expert(self):\n    self.asked += 1\n    return self.number if self.asked % 2 else ' '",
        "expert", E, "asked twice in a row",
    ),
    "a clock": ("def draw(self): return time.perf_counter_ns()", "determinism", E, "played twice"),
    "state of the class": (
        "def step(self, action):\n    Planted.turn_of_all = getattr(Planted, 'turn_of_all', 0) + 1\n"
        "    return super().step(action)\n"
        "def reset(self, *, seed=None, options=None):\n    Planted.turn_of_all = 0\n"
        "    return super().reset(seed=seed)\n"
        "def answer(self, action): return f'Turn {Planted.turn_of_all}.'\n"
        "def expert(self): return None if self.over else self.number if self.turn else 'wait'",
        "determinism", E, "in turns with another instance",
    ),
    "a seed without effect": ("def draw(self): return 5", "determinism", W, "no effect"),
    "draws from the global generator": (
        "def draw(self): return random.randrange(10**6)", "global random", E, "of random"
    ),
    "a global generator that is seeded": (
        "def draw(self):\n    np.random.seed(int(self.np_random.integers(2**31)))\n    return np.random.randint(1000)",
        "global random", W, "numpy.random",
    ),
    "an action that raises": (
        "def right(self, action): return int(action.strip() or 0) == int(self.number)",
        "garbage", E, "cannot be answered",
    ),
    "an uncut action that raises": (
        "def right(self, action):\n    if len(action) > 100_000: raise MemoryError('long')\n"
        "    return action == self.number",
        "garbage", W, "200 kB of one letter",
    ),
    "a NUL that raises": (
        "def right(self, action):\n    if '\\0' in action: raise ValueError('nul')\n    return action == self.number",
        "garbage", W, "NUL characters",
    ),
    "an action that hangs": (
        "def right(self, action):\n    if '{}' in action: time.sleep(60)\n    return action == self.number",
        "garbage", E, "took more than 0.3 s",
    ),
    "nonsense that is a success": (
        "def right(self, action): return action in ('hello', self.number)", "garbage", E, "'a greeting' is a success"
    ),
    "nonsense that is rewarded": (
        "def step(self, action):\n    o, r, *rest = super().step(action)\n"
        "    return o, r + 0.1 * (action == 'hello'), *rest",
        "garbage", W, "'a greeting' is rewarded",
    ),
    "a reset that forgets something": (
        "moves = 0\ndef answer(self, action):\n    self.moves += 1\n    return f'Move {self.moves}.'",
        "reset", E, "not the one of a new instance",
    ),
    "a step after the end": (
        "def step(self, action):\n    self.over = False\n    return super().step(action)",
        "step after the end", E, "was played",
    ),
    "an end that is forgotten": (
        "def step(self, action):\n    if self.over: return 'And on.', 0.0, False, False, {'success': False}\n"
        "    return super().step(action)",
        "step after the end", W, "still running",
    ),
    "a reset without options": (
        "def reset(self, *, seed=None): return super().reset(seed=seed)", "gymnasium", E, "options"
    ),
    "a default seed": (
        "def reset(self, *, seed=1, options=None): return super().reset(seed=seed)", "gymnasium", W, "should be `None`"
    ),
    "a slow step": ("def answer(self, action):\n    time.sleep(0.2)\n    return 'Slow.'", "speed", W, "near the limit"),
    "a long observation": ("def answer(self, action): return 'word ' * 2000", "size", W, "default context"),
    "files left open": (
        "kept = []\ndef __init__(self):\n    super().__init__()\n    self.kept.append(os.open(__file__, os.O_RDONLY))",
        "leaks", E, "5 open files",
    ),
    "threads left behind": (
        "def __init__(self):\n    super().__init__()\n"
            "    threading.Thread(target=time.sleep, args=(2,), daemon=True).start()",
        "leaks", E, "threads",
    ),
    "the order of a set": (
        "def draw(self): return next(iter({'lamp', 'rope', 'coin', 'key', 'ring', 'map', 'hat', 'axe'}))",
        "process", E, "in another process",
    ),
    "a print": ("def answer(self, action):\n    print('debugging')\n    return 'x'", "output", W, "debugging"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(planted: Write, fault: str) -> None:
    body, check, verdict, told = FAULTS[fault]
    limits = Settings(seeds=4, seconds=0.3, budget=1.0) if fault in ("an action that hangs", "a slow step") else QUICK
    if check in CHECKS:
        found = run_check(check, Probe(EnvSpec(planted(body)), limits), {}, [])
    else:
        found = by_check(examine(planted(body), limits))[check]
    fitting = [finding for finding in found if finding.verdict is verdict and told in finding.found]
    assert fitting, [(finding.verdict, finding.found) for finding in found]
    assert all(finding.why and finding.fix for finding in fitting)


def test_every_check_has_its_fault() -> None:
    assert {check for _, check, _, _ in FAULTS.values()} >= {*CHECKS, "process", "output"} - {"tools"}
