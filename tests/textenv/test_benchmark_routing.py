"""Benchmarks are found by their names, and what they lack is said in words, without any of their packages."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trpd_agents.errors import UserError
from trpd_agents.textenv import EnvSpec, make
from trpd_agents.textenv.benchmarks import BENCHMARKS, find
from trpd_agents.textenv.benchmarks.alfworld import _data_folder
from trpd_agents.textenv.benchmarks.base import BenchmarkEnv
from trpd_agents.textenv.benchmarks.bfcl_tasks import _json_schema, read_call
from trpd_agents.textenv.benchmarks.java import new_game
from trpd_agents.textenv.benchmarks.listing import benchmark_rows
from trpd_agents.textenv.benchmarks.textworld import FORBIDDEN, clean_command
from trpd_agents.textenv.benchmarks.textworld_express import _opposite
from trpd_envs.base import Refused
from trpd_envs.schema import coerce

FIRST = {prefix: f"{prefix}/{benchmark.names[0]}" for prefix, benchmark in BENCHMARKS.items()}


@pytest.mark.parametrize("prefix", BENCHMARKS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = BENCHMARKS[prefix]
    missing = "fast_downward" if prefix == "alfworld" else benchmark.package
    for module in [m for m in sys.modules if m.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(UserError) as caught:
        make(FIRST[prefix])
    message = str(caught.value)
    assert repr(missing) in message and f"pip install 'trpd-agents[{benchmark.extra}]'" in message
    assert FIRST[prefix].partition("/")[0] in message


def test_every_listed_id_leads_to_an_adapter_that_can_be_imported() -> None:
    rows = benchmark_rows()
    assert len({row["id"] for row in rows}) == len(rows) > 10
    for row in rows:
        found = find(row["id"])
        assert found is not None and found[1]
        assert callable(found[0].load()) and row["installed"] in ("yes", "no")


def test_the_extras_that_messages_name_exist() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {benchmark.extra for benchmark in BENCHMARKS.values()} <= set(project["optional-dependencies"])


def test_without_java_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install default-jre-headless"):
        new_game("game.jar", "a.Game", "scienceworld", "scienceworld/boil-v0")


@pytest.mark.parametrize(
    ("env_id", "kwargs", "said"),
    [
        ("babyAI/GoToLocal-v0", {}, "Did you mean 'babyai/GoToLocal-v0'"),
        ("textworldexpress/Cooking-v0", {}, "Did you mean 'CookingWorld-v0'"),
        ("textworldexpress/TWC-v0", {"split": "valid"}, "split is one of train, dev, test; found 'valid'"),
        ("textworldexpress/TWC-v0", {"params": {"numLocations": "3"}}, "names to whole numbers"),
        ("textworldexpress/TWC-v0", {"task": "coin"}, "it accepts: split"),
        ("bfcl/multi_turn-v0", {}, "multi_turn_base-v0"),
        ("alfworld/test", {}, "train, valid_seen, valid_unseen"),
    ],
)
def test_wrong_names_and_arguments_are_refused_before_any_package_is_needed(
    env_id: str, kwargs: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(EnvSpec(env_id, kwargs))
    assert said in str(caught.value)


def test_alfworld_says_where_it_looked_for_its_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(UserError, match="alfworld-download.*data=DIR.*ALFWORLD_DATA"):
        _data_folder("alfworld/train", None)
    with pytest.raises(UserError, match="no folder 'json_2.1.1'"):
        _data_folder("alfworld/train", str(tmp_path))
    (tmp_path / "json_2.1.1").mkdir()
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    assert _data_folder("alfworld/train", None) == tmp_path / "json_2.1.1"


class Numbered(BenchmarkEnv):
    def start(self) -> str:
        return self.picked(["a", "b", "c"])


def test_seeds_count_through_the_instances() -> None:
    env = Numbered()
    assert [env.reset(seed=seed)[0] for seed in range(7)] == list("abcabca")
    env.reset(seed=5)
    drawn = [env.reset()[0] for _ in range(40)]
    assert set(drawn) == set("abc")
    env.reset(seed=5)
    assert drawn == [env.reset()[0] for _ in range(40)]


@given(st.text(max_size=60))
def test_only_plain_lines_reach_the_interpreter(text: str) -> None:
    try:
        command = clean_command(text)
    except Refused:
        return
    assert command.isprintable() and command.isascii()
    assert not {sentence.split()[0] for sentence in command.lower().split(".") if sentence.split()} & FORBIDDEN


@pytest.mark.parametrize(
    "text", ["save", " SAVE ", "look. save", "look, then restore", "script;", "look.undo", "\0quit", "go north then q"]
)
def test_commands_that_leave_the_game_are_refused(text: str) -> None:
    with pytest.raises(Refused):
        clean_command(text)
    assert clean_command("put  the\nsaved letter on\0the script") == "put the saved letter on the script"


def test_reference_calls_are_read_and_never_run() -> None:
    assert read_call(" mv(source='a', n=[1, -2.5]) ") == ("mv", [], {"source": "a", "n": [1, -2.5]})
    assert read_call("sort('f.pdf')") == ("sort", ["f.pdf"], {})
    for text in ("__import__('os').system('x')", "f(g())", "f(x)", "f", "f(1) + 2", "(lambda: 1)()"):
        with pytest.raises(ValueError):
            read_call(text)


def test_descriptions_become_schemas_that_arguments_are_checked_against() -> None:
    described = {
        "type": "dict",
        "properties": {
            "amount": {"type": "float", "description": "how much"},
            "names": {"type": "array", "items": {"type": "string"}},
            "path": {"type": "string", "default": "None"},
        },
        "required": ["amount"],
    }
    schema = _json_schema(described)
    assert schema["type"] == "object" and schema["required"] == ["amount"]
    assert schema["properties"]["amount"] == {"description": "how much", "type": "number"}
    assert coerce(["a"], schema["properties"]["names"]) == ["a"]
    assert coerce(None, schema["properties"]["path"]) is None
    with pytest.raises(ValueError):
        coerce([1], schema["properties"]["names"])


def test_only_moves_are_walked_back() -> None:
    assert [_opposite(a) for a in ("move north", "move west", "take coin", "move", "move up")] == [
        "move south",
        "move east",
        "",
        "",
        "",
    ]
