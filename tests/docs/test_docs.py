"""The README and the documentation are true of the code: examples run, commands parse, tables agree with their subject.

Python blocks run in order, each document in a folder and a namespace of its own; a block that begins with `# name.py`
becomes that file. Training runs with the settings of `TINY` on top and with models of random weights in place of the
built-in ones.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

import trpd_agents.config
from trpd_agents.cli import app
from trpd_agents.cli.arguments import env_spec
from trpd_agents.cli.credit_arguments import changed_method
from trpd_agents.config import RunConfig, load_config, parse_config
from trpd_agents.config.method import resolve
from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.credit import KINDS, PRESETS, CreditConfig
from trpd_agents.textenv import EnvSpec, check_environment, list_envs, make
from trpd_agents.textenv.preflight import ADVICE
from trpd_agents.textenv.textarena_experts import EXPERTS
from trpd_agents.textenv.textarena_games import STATUSES, base_name, single_player, table
from trpd_agents.textenv.textarena_words import words

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in DOCUMENTS.items()}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TINY = [
    "training.steps=1",
    "training.episodes_per_step=2",
    "training.ranks=1",
    "evaluation.episodes=2",
    "learner.warmup_steps=0",
    *(
        f"{who}.imitation.{setting}"
        for who in ("student", "teacher")
        for setting in ("demonstrations=2", "updates=1", "batch=2")
    ),
]


def blocks(document: str, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(TEXTS[document]) if found == language]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in `text`, headings and rulers included."""
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def section(document: str, heading: str) -> str:
    """The text under a heading, up to the next one of the same level."""
    level = heading.partition(" ")[0]
    _, found, after = TEXTS[document].partition(f"\n{heading}\n")
    assert found, f"{document} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", after, flags=re.MULTILINE)[0]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository's root to a command, with every file that a document shows."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for document in DOCUMENTS:
        for body in blocks(document, "python"):
            if named := re.match(r"# (\w+\.py)\n", body):
                (tmp_path / named[1]).write_text(body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any training short: models of random weights, an empty cache, `TINY` over every file."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from trpd_agents.base_models.make import make_tokenizer

    tokenizer = make_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=1024, max_position_embeddings=2048, tie_word_embeddings=False, **shape)
    assert len(tokenizer) <= 1024
    model = tmp_path / "random"
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    monkeypatch.setattr("trpd_agents.models.builtin_models", lambda: {"tiny": model, "small": model})
    monkeypatch.setenv("TRPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trpd_agents.config, "load_config", lambda path, more=(): load_config(path, [*more, *TINY]))


def run_python(document: str) -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    for number, body in enumerate(blocks(document, "python"), 1):
        if not re.match(r"# \w+\.py\n", body):
            exec(compile(body, f"{document}, Python block {number}", "exec"), namespace)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "README.md" and blocks(name, "python")])
def test_python_examples_run(document: str, workspace: Path) -> None:
    run_python(document)


def test_the_readme_trains_and_what_it_leaves_is_documented(workspace: Path, tiny_training: None) -> None:
    run_python("README.md")
    run = workspace / "runs" / "first"

    told = {name for row in rows(section("configuration.md", "## Metrics")) for name in quoted(row[0])}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert told == set(lines[0])

    (listing,) = re.findall(r"```text\n(.*?)```", section("configuration.md", "## The run directory"), re.DOTALL)
    listed = {re.split(r"[/ ]", line)[0] for line in listing.splitlines()}
    assert listed == {path.name for path in run.iterdir()}
    readme = {name.split("/")[0] for row in rows(TEXTS["README.md"]) for name in quoted(row[0])}
    assert readme == listed
    (checkpoint, *_) = sorted((run / "checkpoints").iterdir())
    assert {path.name for path in checkpoint.iterdir()} == {"student", "state.pt", "manifest.json"}

    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) == {"before", "after", "teacher", "paired_difference", "seconds", "tokens"}
    assert all(f"`{key}`" in section("configuration.md", "## The run directory") for key in summary)


def test_yaml_examples_are_valid() -> None:
    recipe = read_yaml((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    found = [read_yaml(body) for document in DOCUMENTS for body in blocks(document, "yaml")]
    assert found
    for data in found:
        whole = data if "training" in data else {**recipe, **data}
        parse_config(whole)


def commands() -> list[str]:
    lines = [line for document in DOCUMENTS for body in blocks(document, "bash") for line in body.splitlines()]
    lines = [line.rpartition(" && ")[2] for line in lines]
    return list(dict.fromkeys(line.strip() for line in lines if re.search(r"\btrpd ", line)))


def _parameters(words: list[str]) -> dict[str, Any]:
    """What a command, without `trpd`, understands; of a command with subcommands, what the subcommand does."""
    command: Any = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    rest = words[1:]
    if rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    return command.make_context(words[0], list(rest)).params


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        assert (name, value) == ("PYTHONPATH", ".")
        monkeypatch.syspath_prepend(str(workspace))
    assert words.pop(0) == "trpd"
    given = _parameters(words)
    if words[0] == "train" and given["resume"] is None:
        config = load_config(given["config"], given["overrides"] or [])
        check_environment(EnvSpec(config.env.id, config.env.kwargs), max_turns=config.env.max_turns)
        assert config.student.imitation is None or make(EnvSpec(config.env.id, config.env.kwargs)).has_expert
    elif words[0] in ("eval", "sft"):
        spec = env_spec(given["env"], given["env_arg"])
        check_environment(spec, max_turns=given["max_turns"])
        assert not given.get("expert") or make(spec).has_expert
    elif words[0] in ("methods", "recredit"):
        start = given.get("name") or load_config(ROOT / "configs" / "quickstart.yaml").credit.preset  # of runs/first
        changed_method(PRESETS[start].config, given.get("overrides") or [])


def test_the_two_commands_of_the_readme() -> None:
    lines = [line.rpartition("#")[0].split() for line in blocks("README.md", "bash")[0].splitlines()]
    install = "python -m pip install -c constraints.txt -e".split()
    train = "trpd train configs/quickstart.yaml".split()
    assert lines == [[*install, ".", "&&", *train], [*install, '".[dev]"', "&&", "pytest"]]


def test_what_the_readme_says_of_the_quickstart() -> None:
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    text = TEXTS["README.md"]
    assert f"`{config.env.id}`" in text
    assert f"{config.evaluation.episodes} held-out episodes" in text
    assert f"for {config.training.steps} updates of {config.training.episodes_per_step} episodes" in text
    assert f"`{config.credit.preset}`, which the quickstart uses" in text
    assert config.training.keep_checkpoints == 2 and config.training.save_trajectories_every == 10
    student, teacher = config.student.imitation, config.teacher.imitation
    assert student is not None and teacher is not None
    assert teacher.demonstrations > student.demonstrations and teacher.updates > student.updates
    for line in commands():  # the trained student is evaluated on the task it was trained for
        if line.startswith("trpd eval --model runs/first/"):
            given = _parameters(shlex.split(line, comments=True)[1:])
            spec = env_spec(given["env"], given["env_arg"])
            assert (spec.id, _with_defaults(spec)) == (
                config.env.id,
                _with_defaults(EnvSpec(spec.id, config.env.kwargs)),
            )
            assert given["max_new_tokens"] == config.rollout.max_new_tokens
    assert set(re.findall(r"`credit\.preset=([\w-]+)`", text)) <= set(PRESETS)


def _with_defaults(spec: EnvSpec) -> dict[str, Any]:
    parameters = inspect.signature(type(make(spec).env.unwrapped)).parameters
    return {**{name: parameter.default for name, parameter in parameters.items()}, **spec.kwargs}


def test_links_lead_somewhere() -> None:
    for name, path in DOCUMENTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
            file, _, anchor = target.partition("#")
            found = (path.parent / file) if file else path
            assert found.exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{name}: {target}"


# ---- tables --------------------------------------------------------------------------------------


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key a recipe may have, but those of `credit`, with its default; `...` where it must be given."""
    for name, field in model.model_fields.items():
        inner = [
            part
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        if prefix + name == "credit":
            continue
        if not inner or not field.is_required() and prefix:
            default = field.get_default(call_default_factory=True)
            yield prefix + name, ... if field.is_required() else default
        for part in reversed(inner):  # of several kinds the first is the default, and its `kind` is told last
            yield from settings(part, f"{prefix}{name}.")


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {
        key: quoted(row[2])[0] if quoted(row[2]) else row[2]
        for row in rows(section("configuration.md", "## Settings"))
        for key in quoted(row[0])
    }
    wanted = dict(settings(RunConfig))
    assert set(listed) == set(wanted)
    for key, default in wanted.items():
        if default is ...:
            assert listed[key] == "required", key
        else:
            found = read_yaml(listed[key])
            assert (tuple(found) if isinstance(found, list) else found) == default, key


PARTS = {  # where method.md lists the kinds of each part
    "gate": "## Token gate",
    "outlier": "## Outliers",
    "divergence": "## Turn divergence",
    "rule": "## Trajectory rule",
    "filter": "## Trajectory filter",
    "guidance": "## Guidance",
    "curriculum": "## Curriculum",
    "estimator": "## Three losses",
    "normaliser": "## Three losses",
}


def test_every_part_has_its_table() -> None:
    assert set(PARTS) == set(KINDS)


@pytest.mark.parametrize("part", PARTS)
def test_every_kind_of_a_part_is_listed_with_its_defaults(part: str) -> None:
    tables = section("method.md", PARTS[part]).split("\n\n")
    (table,) = (lines for lines in tables if lines.startswith(f"| {part} |"))
    _, _, *listed = cells(table)
    assert [quoted(row[0])[0] for row in listed] == list(KINDS[part])
    for row in listed:
        kind = quoted(row[0])[0]
        default = {"kind": kind} if part == "divergence" else {}
        wanted = {
            key: value for key, value in dataclasses.asdict(KINDS[part][kind](**default)).items() if key != "kind"
        }
        assert {key: value for setting in quoted(row[1]) for key, value in read_yaml(setting).items()} == wanted, kind


def test_every_preset_is_listed_with_what_it_changes() -> None:
    tables = section("method.md", "## Parts and presets").split("\n\n")
    (table,) = (lines for lines in tables if lines.startswith("| preset |"))
    _, _, *listed = cells(table)
    assert [quoted(row[0])[0] for row in listed] == list(PRESETS)
    for row in listed:
        name = quoted(row[0])[0]
        changes = {key: value for setting in quoted(row[1]) for key, value in read_yaml(setting).items()}
        assert resolve(CreditConfig(), changes) == PRESETS[name].config, name
        assert re.findall(r"\d{4}\.\d{5}", row[2]) == list(PRESETS[name].sources), name


def cells(table: str) -> list[list[str]]:
    """The cells of a table that has empty ones."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]


def test_the_configuration_leads_to_the_methods() -> None:
    text = section("configuration.md", "## Methods: the `credit` section")
    assert "](method.md#parts-and-presets)" in text
    assert set(re.findall(r"credit\.preset=([\w-]+)", text)) <= set(PRESETS)


def test_the_bare_training_loop_is_short() -> None:
    (loop,) = (body for body in blocks("credit.md", "python") if "optimizer.step()" in body)
    assert len([line for line in loop.splitlines() if line.strip()]) <= 60


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install trl")
def test_the_example_on_top_of_trl_learns(workspace: Path) -> None:
    done = subprocess.run([sys.executable, "trl_opd.py"], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mean log ratio" in done.stdout


def test_the_bundled_environments_are_as_listed() -> None:
    listed = {quoted(row[0])[0]: row for row in rows(section("environments.md", "## Bundled environments"))[2:]}
    known = {entry.id: entry for entry in list_envs() if not entry.id.startswith("textarena/")}
    assert set(listed) == set(known)
    for name, (_, _, _, turns, tools, _, arguments) in listed.items():
        entry = known[name]
        assert (int(turns), tuple(quoted(tools)), entry.expert) == (entry.horizon, entry.tools, True)
        told = dict(item.split("=") for item in quoted(arguments) if "=" in item)
        parameters = inspect.signature(type(make(name).env.unwrapped)).parameters
        defaults = {key: parameter.default for key, parameter in parameters.items()}
        assert {key: read_yaml(value) for key, value in told.items()} == defaults


def test_what_is_said_of_textarena() -> None:
    text = section("textarena.md", "## Which games")
    games = table().values()
    assert f"all {len(games)} games" in text and f"{len(single_player())} are for one player" in text
    listed = {row[0]: row for row in rows(text)[2:]}
    assert list(listed) == list(STATUSES)
    for status, (_, number, meaning) in listed.items():
        named = {base_name(game.id) for game in games if game.status == status}
        assert int(number) == sum(game.status == status for game in games)
        assert not status.startswith("needs") or all(name in meaning for name in named)
    (sentence,) = re.findall(
        r"\*\*Seeds that do nothing\.\*\* (.*?) give", section("textarena.md", "## What the adapter does")
    )
    still = {base_name(game.id) for game in single_player().values() if not game.seed_matters}
    assert set(re.split(r", | and ", sentence)) == still
    assert [row[0] for row in rows(section("textarena.md", "## Experts"))[2:]] == sorted(EXPERTS)
    told = re.findall(r"([\d,]+) words", section("textarena.md", "## Word games"))
    assert told == [f"{len(made):,}" for made in (words().basic, words().english, words().accepted)]


def test_every_bad_call_is_answered_as_listed(workspace: Path) -> None:
    listed = rows(section("environments.md", "### Calls and bad calls"))[2:]
    assert len(listed) > 10
    for what, action, answer in listed:
        env = make("shop.py:Shop")
        env.reset(0)
        step = env.step(action.strip("`"))
        assert (step.observation, step.ok, step.terminated) == (answer.strip("`"), False, False), what


def test_every_kind_of_failure_is_listed() -> None:
    listed = {
        kind for row in rows(section("environments.md", "## When an environment fails"))[2:] for kind in quoted(row[0])
    }
    assert listed == set(ADVICE)
