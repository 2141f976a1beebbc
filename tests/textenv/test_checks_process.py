"""The checks come to an end whatever an environment does, and say where it was."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from textwrap import dedent

import gymnasium
import pytest

from trpd_agents.config import RolloutConfig
from trpd_agents.errors import UserError
from trpd_agents.textenv import EnvSpec, list_envs
from trpd_agents.textenv.checks import Finding, Settings, Verdict, count, examine
from trpd_agents.textenv.checks.child import CHECKS
from trpd_agents.textenv.checks.cost import CONTEXT

NAMES = [entry.id for entry in list_envs() if "/" not in entry.id]
QUICK = Settings(seeds=3, seconds=0.2, budget=0.5)
ENV = """
    import os, subprocess, time
    import gymnasium

    class E(gymnasium.Env):
        max_turns = 3
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            {reset}
            self.turn = 0
            return "start", {{}}
        def step(self, action):
            {step}
            self.turn += 1
            return "seen", 0.0, False, self.turn == 3, {{"success": False}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def findings(reset: str = "pass", step: str = "pass") -> list[Finding]:
    Path("env.py").write_text(dedent(ENV.format(reset=reset, step=step)))
    return examine("env.py:E", QUICK)


def errors(found: list[Finding]) -> str:
    return "\n".join(f"{finding.check}: {finding.found}" for finding in found if finding.verdict is Verdict.ERROR)


ENDLESS = "\n            ".join(
    ["while True:", "    try: time.sleep(1)", "    except BaseException: pass"]
)  # fmt: skip


def test_a_step_that_cannot_be_interrupted_is_killed() -> None:
    started = time.monotonic()
    found = findings(step=ENDLESS)
    assert "no answer for" in errors(found) and "its process was killed" in errors(found)
    assert {finding.check for finding in found} >= set(CHECKS)  # those not tried any more are listed, too
    assert time.monotonic() - started < 60


def test_a_process_that_exits_is_told_with_what_was_tried() -> None:
    found = findings(step="if 'NaN' in action: os.write(2, b'last words'); os._exit(3)")
    assert "garbage: the process died with exit code 3 while trying the action a call of NaN" in errors(found)
    assert "last words" in errors(found)
    assert [finding.verdict for finding in found if finding.check == "leaks"] == [Verdict.OK]  # by another process


def test_what_it_started_does_not_outlive_it(folder: Path) -> None:
    start = "open('pids', 'a').write(f\"{subprocess.Popen(['sleep', '60']).pid}\\n\")"
    assert "child processes" in errors(findings(reset=start))
    pids = [int(line) for line in Path("pids").read_text().split()]
    deadline = time.monotonic() + 5
    while (alive := [pid for pid in pids if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids and alive == []


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"  # killed, but nobody has asked how it ended
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_failures_are_told_once() -> None:
    found = findings(step="raise KeyError('door')")
    assert errors(found).count("door") == 3  # of an episode, of garbage, and Gymnasium's checker
    assert any("step_raised, see" in finding.found for finding in found if finding.verdict is Verdict.SKIPPED)


def test_an_environment_that_only_this_process_knows_is_told_apart() -> None:
    with pytest.raises(UserError, match="Elsewhere-v0"):
        examine("Elsewhere-v0")
    gymnasium.register("Elsewhere-v0", entry_point=lambda: gymnasium.Env())
    try:
        assert "not in a new one" in errors(examine("Elsewhere-v0"))
    finally:
        del gymnasium.registry["Elsewhere-v0"]


def test_a_mistake_in_the_arguments_is_the_users() -> None:
    with pytest.raises(UserError, match="rooms"):
        examine(EnvSpec("Courier-v0", {"rooms": 99}))


def test_every_environment_of_a_mixture_is_checked() -> None:
    spec = EnvSpec("mixture", {"environments": [{"id": "GuessNumber-v0"}, {"id": "KeyChain-v0"}]})
    names = {finding.check.partition(":")[0] for finding in examine(spec, QUICK)}
    assert names == {"GuessNumber-v0", "KeyChain-v0"}


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_environments_have_neither_errors_nor_warnings(name: str) -> None:
    found = examine(name, Settings(seeds=5, budget=2.0))
    assert count(found, Verdict.ERROR) == 0, errors(found)
    assert [finding.found for finding in found if finding.verdict is Verdict.WARNING] == []


@pytest.mark.slow
def test_a_game_of_textarena_has_no_errors() -> None:
    assert errors(examine("textarena/FrozenLake-v0", Settings(seeds=3))) == ""


def test_the_size_is_compared_with_the_default_context() -> None:
    assert CONTEXT == RolloutConfig.model_fields["max_tokens"].default


def test_every_check_is_documented() -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "writing-environments.md"
    listed = re.findall(r"^\| `([a-z ]+)` \|", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [*CHECKS, "process", "output"]
