"""Every mistake that we could think of, through the real command line: one message that says what was found, what was
wanted and what to do; exit code 2; no traceback; nothing written and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config.yaml_file import write_yaml
from trpd_agents.dialogue import train_tokenizer

ENVIRONMENTS = '''
import gymnasium
from gymnasium.spaces import Box, Text


class Good(gymnasium.Env):
    """Ends after three turns; `step` is what the others change."""

    observation_space = action_space = Text(100)
    max_turns = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return "Say yes.", {}

    def step(self, action):
        self.turn += 1
        return "No.", 0.0, False, self.turn == 3, {"success": False}


class NotAnEnv:
    pass


class Pixels(Good):
    observation_space = Box(0, 1, (84, 84))


class Numbers(Good):
    def step(self, action):
        return (7, *super().step(action)[1:])


class ResetRaises(Good):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("the deck is missing")


class StepRaises(Good):
    def step(self, action):
        raise KeyError("north")


class NoLimit(Good):
    max_turns = None

    def step(self, action):
        return "No.", 0.0, False, False, {"success": False}


class IgnoresLimit(NoLimit):
    max_turns = 3


class NanReward(Good):
    def step(self, action):
        return "No.", float("nan"), False, False, {"success": False}


class NumberFlag(Good):
    def step(self, action):
        return "No.", 0.0, 0, False, {"success": False}


class TextSuccess(Good):
    def step(self, action):
        return "No.", 0.0, True, False, {"success": "yes"}


class NeverSays(Good):
    def step(self, action):
        return (*super().step(action)[:4], {})
'''

ENV_MISTAKES = [
    ("KeyChian-v0", ["unknown environment 'KeyChian-v0'", "Did you mean 'KeyChain-v0'", "`trpd envs` lists"]),
    (
        "textarena/FrozenLak-v0",
        ["has no game 'FrozenLak-v0'", "`trpd envs --textarena`", "Did you mean 'FrozenLake-v0'"],
    ),
    ("bad.py:Goood", ["has no class 'Goood'", "it has Good, NotAnEnv", "Did you mean 'Good'"]),
    ("bda.py:Good", ["bda.py does not exist", "Did you mean 'bad.py'"]),
    ("bad.py:NotAnEnv", ["derives from object", "wanted a class that derives from gymnasium.Env"]),
    ("bad.py:Pixels", ["observation_space is Box", "wanted gymnasium.spaces.Text", "wrap it"]),
    ("bad.py:Numbers", ["observation of type int", "wanted str"]),
    ("bad.py:ResetRaises", ["reset(seed=0)", "RuntimeError: the deck is missing", "bad.py:", "in reset"]),
    ("bad.py:StepRaises", ["on action 'hello'", "KeyError: 'north'", "bad.py:", "in step", "has to answer any text"]),
    ("bad.py:NoLimit", ["has no turn limit", "max_turns", "max_episode_steps"]),
    ("bad.py:IgnoresLimit", ["a limit of 3 turns but had not ended after 3 steps", "return truncated=True"]),
    ("bad.py:NanReward", ["reward nan", "wanted a finite number"]),
    ("bad.py:NumberFlag", ["terminated is 0 of type int", "wanted True or False"]),
    ("bad.py:TextSuccess", ["""info["success"] is 'yes' of type str""", "wanted True or False"]),
    ("bad.py:NeverSays", ['without info["success"]', "reward_threshold", 'return info["success"]']),
]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_directory: Callable[..., Path]) -> Path:
    """A folder with a recipe that works and a file of environments, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.py").write_text(ENVIRONMENTS)
    settings: dict[str, Any] = {
        "env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 2}},
        "student": {"model": str(model_directory(0))},
        "teacher": {"model": str(model_directory(1))},
        "rollout": {"max_new_tokens": 3, "max_tokens": 200},
        "credit": {"preset": "opd"},
        "learner": {"lr": 1e-3, "device": "cpu"},
        "training": {"steps": 1, "episodes_per_step": 2},
        "evaluation": {"episodes": 2},
    }
    (tmp_path / "recipe.yaml").write_text(write_yaml(settings))
    return tmp_path / "recipe.yaml"


def files() -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in Path().rglob("*") if "__pycache__" not in p.parts}


def refused(*arguments: object, wanted: list[str]) -> str:
    """The message of a command that is refused and leaves every file as it was."""
    before = files()
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert files() == before
    *others, last = result.stderr.split("error: ")
    assert others == [""] and "Traceback" not in result.output
    assert all(part in last for part in wanted), last
    return last


def not_there(who: str) -> list[str]:
    return [f"/{who}'", "no such directory", "wanted a model directory, a hub id (OWNER/NAME) or builtin:NAME"]


# ---- environments ----


@pytest.mark.parametrize(("env", "wanted"), ENV_MISTAKES)
def test_an_environment_that_cannot_be_played(recipe: Path, env: str, wanted: list[str]) -> None:
    refused("train", recipe, f"env.id={env}", "env.kwargs={}", wanted=wanted)
    refused("eval", "--model", "builtin:tiny", "--env", env, "-n", "2", "--json", "result.json", wanted=wanted)
    refused("sft", "--env", env, "--expert", "--out", "out", wanted=wanted)


def test_the_same_file_with_nothing_wrong_is_played(recipe: Path, model_directory: Callable[..., Path]) -> None:
    """So that the mistakes above are refused for what they are."""
    model = model_directory(0)
    arguments = ["eval", "--model", str(model), "--env", "bad.py:Good", "-n", "2", "--json", "result.json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(Path("result.json").read_text())["episodes"] == 2


def test_an_environment_with_nobody_to_imitate(recipe: Path, model_directory: Callable[..., Path]) -> None:
    wanted = ["has no expert() to imitate", "give its class a method expert()"]
    refused("sft", "--model", model_directory(0), "--env", "bad.py:Good", "--expert", "--out", "out", wanted=wanted)
    start = "student.imitation={demonstrations: 2, updates: 1, batch: 2, lr: 1e-3}"
    refused("train", recipe, "env.id=bad.py:Good", "env.kwargs={}", start, "--run-dir", "runs/a", wanted=wanted)


def test_wrong_arguments_of_an_environment(recipe: Path) -> None:
    wanted = ["lenght", "it accepts: length", "Did you mean 'length'"]
    refused("train", recipe, "env.id=KeyChain-v0", "env.kwargs={lenght: 3}", wanted=wanted)
    refused("eval", "--model", "builtin:tiny", "--env", "KeyChain-v0", "--env-arg", "lenght=3", wanted=wanted)


# ---- recipes ----


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("learner.warmup=3", ["learner.warmup", "did you mean", "warmup_steps"]),
        ("trainin.steps=3", ["trainin", "did you mean 'training'"]),
        ("student.imitation={demonstration: 5}", ["student.imitation.demonstration", "demonstrations"]),
        ("credit.rule={kind: occupancy, buget: 2}", ["credit.rule.buget", "budget"]),
        ("credit.preset=trjectory", ["credit.preset", "trajectory"]),
        ("learner.warmup_steps=2", ["learner.warmup_steps", "1 optimiser steps wanted, found 2"]),
        ("rollout.temperature=0.7", ["rollout.temperature", "set it to 1.0"]),
        ("rollout.top_p=0.9", ["rollout.top_p", "remove the key"]),
        ("training.group_size=3", ["group_size (3) must divide episodes_per_step (2)"]),
        ("learner.lr=fast", ["learner.lr", "fast"]),
    ],
)
def test_a_recipe_that_cannot_be_run(recipe: Path, override: str, wanted: list[str]) -> None:
    refused("train", recipe, override, "--run-dir", "run", wanted=[str(recipe), *wanted])


def test_guidance_that_the_teacher_cannot_do(recipe: Path) -> None:
    wanted = ["credit.guidance.kind", "'oracle' cannot guide by 'rescue', only by none, prefix, bernoulli", "'local'"]
    refused("train", recipe, "teacher={kind: oracle}", "credit.guidance=rescue", wanted=wanted)


def test_an_oracle_needs_an_expert(recipe: Path) -> None:
    arguments = ["env={id: textarena/Blackjack-v0}", "teacher={kind: oracle}", "student.imitation=null"]
    wanted = ["'textarena/Blackjack-v0' has no expert()", "the oracle teacher asks it", "a teacher of kind 'local'"]
    refused("train", recipe, *arguments, "--run-dir", "run", wanted=wanted)
    assert not Path("run").exists()


def test_mistakes_need_legal_actions(recipe: Path) -> None:
    Path("few.py").write_text(
        "from trpd_envs.keychain import KeyChain\n\nclass Few(KeyChain):\n    legal_actions = None\n"
    )
    imitation = "student.imitation={demonstrations: 2, updates: 1, batch: 2, lr: 1e-3, mistakes: 0.2}"
    wanted = ["'few.py:Few' lists no legal actions", "imitation.mistakes=0.2", "set imitation.mistakes to 0"]
    refused("train", recipe, "env={id: 'few.py:Few'}", imitation, "--run-dir", "run", wanted=wanted)
    assert not Path("run").exists()


def test_a_recipe_that_is_not_there_or_not_a_recipe(recipe: Path) -> None:
    refused("train", "nowhere.yaml", wanted=["no configuration file at nowhere.yaml"])
    Path("list.yaml").write_text("- 1\n")
    refused("train", "list.yaml", wanted=["must hold a mapping", "found list"])
    Path("broken.yaml").write_text("env: {id: [\n")
    refused("train", "broken.yaml", wanted=["broken.yaml is not valid YAML"])


# ---- models ----


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_model_that_is_not_there(recipe: Path, who: str) -> None:
    """Found before the environment is looked at, which is wrong too."""
    override = f"{who}.model={Path('nowhere').absolute()}"
    refused("train", recipe, override, "env.id=bad.py:StepRaises", "--run-dir", "run", wanted=not_there("nowhere"))


def test_a_model_that_is_not_there_for_eval_and_sft(recipe: Path, model_directory: Callable[..., Path]) -> None:
    nowhere, there, play = Path("nowhere").absolute(), model_directory(0), ["--env", "bad.py:StepRaises"]
    wanted = not_there("nowhere")
    refused("eval", "--model", nowhere, *play, "--ranks", 2, wanted=wanted)
    refused("eval", "--model", there, "--compare", nowhere, *play, wanted=wanted)
    refused("sft", "--model", nowhere, *play, "--expert", "--out", "out", wanted=wanted)
    refused("sft", "--model", there, "--teacher", nowhere, *play, "--out", "out", wanted=wanted)


def test_a_mistyped_path_that_could_be_a_hub_id_says_so(recipe: Path) -> None:
    wanted = ["'models/nowhere'", "there is no such directory, and as a hub id"]
    refused("train", recipe, "student.model=models/nowhere", wanted=wanted)
    refused("eval", "--model", "models/nowhere", "--env", "GuessNumber-v0", wanted=wanted)


def test_an_unknown_builtin_model(recipe: Path) -> None:
    refused("train", recipe, "teacher.model=builtin:huge", wanted=["builtin:huge", "builtin:small", "builtin:tiny"])


def test_a_directory_without_a_model(recipe: Path) -> None:
    Path("empty").mkdir()
    wanted = ["'empty'", "found a directory without config.json", "written by save_pretrained"]
    refused("train", recipe, "student.model=empty", wanted=wanted)
    refused("eval", "--model", "empty", "--env", "GuessNumber-v0", wanted=wanted)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])  # the second class would be made without a single token
def test_a_model_without_a_tokenizer(recipe: Path, model_directory: Callable[..., Path], kind: str) -> None:
    shutil.copytree(model_directory(0), "bare", ignore=shutil.ignore_patterns("tok*", "chat*"))
    settings = json.loads(Path("bare/config.json").read_text())
    Path("bare/config.json").write_text(json.dumps({**settings, "model_type": kind}))
    wanted = ["'bare'", "its tokenizer cannot be loaded", "wanted tokenizer.json", "tokenizer.save_pretrained"]
    refused("train", recipe, "student.model=bare", "--run-dir", "run", wanted=wanted)
    refused("eval", "--model", "bare", "--env", "GuessNumber-v0", wanted=wanted)
    refused("sft", "--model", "bare", "--env", "GuessNumber-v0", "--expert", "--out", "out", wanted=wanted)


def test_weights_that_are_cut_off_leave_no_run_behind(recipe: Path, model_directory: Callable[..., Path]) -> None:
    shutil.copytree(model_directory(0), "cut")
    weights = Path("cut/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:2000])
    wanted = ["'cut'", "its weights cannot be loaded", "wanted a causal language model in *.safetensors files, whole"]
    for _ in range(2):  # the same command again says the same, and not that a run directory exists
        refused("train", recipe, "student.model=cut", "--run-dir", "runs/first", wanted=wanted)
    Path("empty").mkdir()
    refused("train", recipe, "student.model=cut", "--run-dir", "empty", wanted=wanted)  # and is still there
    refused("eval", "--model", "cut", "--env", "GuessNumber-v0", wanted=wanted)


@pytest.fixture
def other_words(recipe: Path, make_lm: Callable[..., Any]) -> str:
    """A model whose vocabulary is another one."""
    other = make_lm(2)
    tokenizer = other.tokenizer
    other.tokenizer = train_tokenizer(["completely different words for a different vocabulary " * 3], 300)
    other.save(Path("other"))
    other.tokenizer = tokenizer
    return "other"


def test_vocabularies_that_differ_are_refused_before_anything_is_trained(recipe: Path, other_words: str) -> None:
    wanted = ["do not share a vocabulary", "for the student and", "Choose a teacher of the student's model family"]
    start = "teacher.imitation={demonstrations: 2, updates: 100000, batch: 2, lr: 1e-3}"
    refused("train", recipe, f"teacher.model={other_words}", start, "--run-dir", "run", wanted=wanted)
    arguments = ["--env", "GuessNumber-v0", "--teacher", other_words, "--demonstrations", 1, "--out", "out"]
    refused("sft", "--model", "builtin:tiny", *arguments, wanted=wanted[:1])


def test_more_top_tokens_than_the_vocabulary_has(recipe: Path) -> None:
    wanted = ["credit.outlier.top_k=401", "vocabulary of 400 tokens; lower it"]
    refused("train", recipe, "credit.preset=tropd", "credit.outlier.top_k=401", "--run-dir", "run", wanted=wanted)


def test_a_context_that_is_too_short(recipe: Path) -> None:
    wanted = ["rollout.max_tokens=4096", "the student's context of 2048 tokens; lower it"]
    refused("train", recipe, "rollout.max_tokens=4096", "--run-dir", "run", wanted=wanted)


# ---- run directories ----


@pytest.fixture
def finished(recipe: Path) -> Path:
    result = CliRunner().invoke(app, ["train", str(recipe), "--run-dir", "run"])
    assert result.exit_code == 0, result.output
    return Path("run")


def test_a_run_is_never_overwritten_and_a_damaged_one_never_continued(recipe: Path, finished: Path) -> None:
    wanted = ["already exists", f"--resume {finished}", "another directory"]
    refused("train", recipe, "--run-dir", finished, wanted=wanted)

    state = finished / "checkpoints" / "step-000001" / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    other = finished / "checkpoints" / "step-000000" / "manifest.json"
    manifest = other.read_bytes()
    other.write_bytes(b"")
    wanted = ["no checkpoint", "state.pt is damaged", f"found {len(whole) // 2} bytes", f"wanted {len(whole)} bytes"]
    refused("train", "--resume", finished, wanted=[*wanted, "step-000000: its manifest.json", "put back"])
    state.write_bytes(whole)
    other.write_bytes(manifest)

    wanted = ["rollout.max_tokens=4096", "lower it"]
    refused("train", "--resume", finished, "training.steps=2", "rollout.max_tokens=4096", wanted=wanted)
    shutil.rmtree(finished / "teacher")
    refused("train", "--resume", finished, "training.steps=2", wanted=not_there("teacher"))


def test_a_finished_run_is_resumed_without_the_models_it_began_with(recipe: Path, finished: Path) -> None:
    """It has its own copies: that is what makes the checks above look at those."""
    arguments = ["--resume", str(finished), "training.steps=2", "student.model=/nowhere", "teacher.model=/nowhere"]
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 0, result.output


def test_a_directory_that_is_no_run(recipe: Path) -> None:
    Path("notes").mkdir()
    Path("notes/precious.txt").write_text("thesis")
    refused("train", "--resume", "notes", wanted=["notes: no config.yaml there", "give the directory of a run"])
    refused("train", recipe, "--resume", "notes", wanted=["notes is not a run directory", "config.yaml"])
    refused("train", recipe, "--run-dir", "notes", wanted=["notes already exists and is not empty", "another"])
    refused("train", recipe, "--run-dir", "recipe.yaml", wanted=["recipe.yaml already exists"])
    refused("train", recipe, "--run-dir", "recipe.yaml/run", wanted=["cannot be written"])


# ---- as a process ----


def test_a_mistake_in_a_real_process(recipe: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from trpd_agents.cli import main; main()", "train", "recipe.yaml"]
    before = files()
    found = subprocess.run(
        [*command, "teacher.model=/nowhere", "training.ranks=2"], env=environment, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: model '/nowhere': no such directory") and found.stderr.count("\n") == 1
    assert files() == before
