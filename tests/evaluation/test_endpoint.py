"""Models behind a server, evaluated by name: the same game that local models play, and faults told apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.errors import RunError, UserError
from trpd_agents.evaluation.endpoint import evaluate_endpoint, first_messages
from trpd_agents.teacher import http
from trpd_agents.teacher.http import Endpoint
from trpd_agents.textenv import EnvSpec, make

FILE = Path(__file__).parents[1] / "rollout" / "scripted_env.py"
LAKE = EnvSpec("GridLake-v0", {"size": 3, "holes": 1, "max_turns": 4})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(http, "LONGEST_DELAY", 0.1)


@pytest.fixture
def expert(serve, make_lm):
    """A server whose chat answers are what the environment's expert would say, found by playing the conversation."""

    def start(spec: EnvSpec, first_seed: int, **switches):
        server = serve(make_lm(0), **switches)
        openings = {}
        for seed in range(first_seed, first_seed + 8):
            env = make(spec)
            openings[env.reset(seed)] = seed

        def chat(body):
            said = [message for message in body["messages"] if message["role"] != "system"]
            env = make(spec)
            env.reset(openings[said[0]["content"]])
            for message in said[1:]:
                if message["role"] == "assistant":
                    observed = env.step(message["content"]).observation
                else:
                    assert message["content"] == observed
            answer = {"message": {"role": "assistant", "content": env.expert()}, "finish_reason": "stop"}
            return {"choices": [answer], "usage": {"completion_tokens": 3}}

        server._chat = chat
        return server

    return start


def test_an_expert_behind_a_server_succeeds(expert):
    server = expert(LAKE, 50)
    seen = []
    found = evaluate_endpoint(Endpoint(server.url), "teacher", LAKE, 8, seed=50, on_finish=seen.append)
    assert found.outcomes == {seed: [True] for seed in range(50, 58)} and found.errors == {}
    assert len(seen) == 8 and found.success_rate.mean == 1.0 and found.refused_share == 0
    assert found.tokens == 3 * sum(found.stops.values()) and found.endings == {"terminated": 8}
    assert server.most_at_once > 1


def test_the_first_messages_say_what_a_local_model_is_told():
    env = make(EnvSpec("KeyChain-v0"))
    observation = env.reset(0)
    system, user = first_messages(env.instructions, env.tools, observation)
    assert system["role"] == "system" and system["content"].startswith(env.instructions)
    assert all(json.dumps(tool["function"]["name"]) in system["content"] for tool in env.tools)
    assert "<tool_call>" in system["content"] and user == {"role": "user", "content": observation}
    assert first_messages("", [], "Go.") == [{"role": "user", "content": "Go."}]


def test_a_real_model_plays_and_plays_the_same_again(serve, make_lm):
    server = serve(make_lm(0))
    play = {"episodes": 4, "repeats": 2, "seed": 7, "max_new_tokens": 4}
    found = [evaluate_endpoint(Endpoint(server.url), "teacher", LAKE, **play) for _ in range(2)]
    assert found[0] == found[1] and found[0].episodes == 8 and found[0].tokens > 0
    sent = [body for body in server.requests if "messages" in body]
    assert {body["max_tokens"] for body in sent} == {4} and {body["temperature"] for body in sent} == {1.0}
    assert len({body["seed"] for body in sent}) > 8


def test_as_many_at_once_as_the_endpoint_takes(expert):
    server = expert(LAKE, 50, delay=0.02)
    evaluate_endpoint(Endpoint(server.url, max_parallel=2), "teacher", LAKE, 6, seed=50)
    assert server.most_at_once == 2


def test_faults_of_the_environment_are_no_failures_of_the_model(serve, make_lm):
    server = serve(make_lm(0))
    for fail, kind in (("step", "step_raised"), ("reset", "reset_raised")):
        spec = EnvSpec(f"{FILE}:Scripted", {"fail": fail, "failures": 2, "bad_seeds": (4,), "tag": f"endpoint-{fail}"})
        found = evaluate_endpoint(Endpoint(server.url), "teacher", spec, 3, seed=4, max_new_tokens=2)
        assert found.errors == {kind: 1} and found.outcomes == {5: [False], 6: [True]}
    spec = EnvSpec(f"{FILE}:Scripted", {"fail": "step", "failures": 1, "tag": "endpoint-once"})
    found = evaluate_endpoint(Endpoint(server.url), "teacher", spec, 3, seed=4, max_new_tokens=2)
    assert found.errors == {} and found.outcomes == {4: [True], 5: [False], 6: [True]}


def test_errors_of_the_server_are_tried_again(expert):
    server = expert(LAKE, 50)
    server.fail_next, server.status = 5, 429
    found = evaluate_endpoint(Endpoint(server.url), "teacher", LAKE, 4, seed=50)
    assert found.success_rate.mean == 1.0 and server.fail_next == 0


def test_refusals_and_odd_answers_are_counted_by_kind(expert):
    server = expert(LAKE, 50)
    honest, calls = server._chat, 0

    def chat(body):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise type_of_error(400, "no such thing")
        return {"choices": []} if calls == 2 else honest(body)

    type_of_error = sys.modules["model_server"].Error
    server._chat = chat
    found = evaluate_endpoint(Endpoint(server.url, max_parallel=1), "teacher", LAKE, 4, seed=50)
    assert found.errors == {"endpoint_refused": 1, "endpoint_bad_answer": 1}
    assert found.episodes == 2 and found.success_rate.mean == 1.0


def test_a_full_context_ends_an_episode_without_an_error(serve, make_lm):
    server = serve(make_lm(0), context=60)
    found = evaluate_endpoint(Endpoint(server.url), "teacher", LAKE, 2, max_new_tokens=4)
    assert found.errors == {} and found.endings == {"max_tokens": 2} and found.success_rate.mean == 0


def test_the_other_name_of_the_token_limit(expert):
    server = expert(LAKE, 50)
    honest = server._chat

    def chat(body):
        if "max_tokens" in body:
            raise sys.modules["model_server"].Error(400, "Unsupported: use 'max_completion_tokens' instead.")
        assert body["max_completion_tokens"] == 32
        return honest(body)

    server._chat = chat
    found = evaluate_endpoint(Endpoint(server.url), "teacher", LAKE, 4, seed=50)
    assert found.errors == {} and found.success_rate.mean == 1.0


def test_wrong_names_keys_and_addresses_are_refused(serve, make_lm, monkeypatch):
    server = serve(make_lm(0), key="sesame-42")
    monkeypatch.setenv("RIGHT", "sesame-42")
    monkeypatch.setenv("WRONG", "sesame-43")
    with pytest.raises(UserError, match="HTTP 401") as error:
        evaluate_endpoint(Endpoint(server.url, key_env="WRONG"), "teacher", LAKE, 2)
    assert "sesame" not in str(error.value)
    with pytest.raises(UserError, match="`other` does not exist"):
        evaluate_endpoint(Endpoint(server.url, key_env="RIGHT"), "other", LAKE, 2)
    server.stop()
    with pytest.raises(UserError, match="did not answer.*start the server"):
        evaluate_endpoint(Endpoint(server.url, key_env="RIGHT"), "teacher", LAKE, 2)


def test_a_server_that_stays_away_ends_the_evaluation(expert):
    server = expert(LAKE, 50)
    honest, calls = server._chat, 0

    def chat(body):
        nonlocal calls
        calls += 1
        if calls == 4:
            server.fail_next = 10**6
        return honest(body)

    server._chat = chat
    with pytest.raises(RunError, match=r"did not answer for .* of 8 episodes"):
        evaluate_endpoint(Endpoint(server.url, patience=0.2), "teacher", LAKE, 8, seed=50)


# ---- the command ----


def run(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_the_command_compares_with_a_local_model(expert, model_directory, tmp_path, monkeypatch):
    server = expert(LAKE, 50, key="sesame-42")
    monkeypatch.setenv("EVAL_KEY", "sesame-42")
    result = tmp_path / "result.json"
    game = ["--env", LAKE.id, *(f"--env-arg={key}={value}" for key, value in LAKE.kwargs.items())]
    options = ["--model", "teacher", "--endpoint", server.url, "--api-key-env", "EVAL_KEY", "-n", 8, "--seed", 50]
    found = run(*options, *game, "--compare", model_directory(0), "--json", result, "--max-new-tokens", 8)
    assert found.exit_code == 0, found.stderr
    assert f"teacher at {server.url}" in found.stdout and "paired by seed: +" in found.stdout
    assert "sesame" not in found.stdout + found.stderr + result.read_text()
    written = json.loads(result.read_text())
    assert written["success_rate"] == 1.0 and written["endpoint"] == server.url and written["model"] == "teacher"
    assert written["compare"]["episodes"] == 8 and written["paired_difference"]["mean"] > 0


def test_the_command_says_when_answers_are_cut_off(serve, make_lm):
    server = serve(make_lm(0))
    found = run("--model", "teacher", "--endpoint", server.url, "--env", "GridLake-v0", "-n", 2, "--max-new-tokens", 1)
    assert found.exit_code == 0 and "cut off at --max-new-tokens 1; raise it" in found.stdout


def test_the_command_says_what_could_not_be_played(expert):
    server = expert(LAKE, 50)
    honest, calls = server._chat, 0

    def chat(body):
        nonlocal calls
        calls += 1
        return {"choices": []} if calls == 1 else honest(body)

    server._chat = chat
    game = ["--env", LAKE.id, *(f"--env-arg={key}={value}" for key, value in LAKE.kwargs.items())]
    found = run("--model", "teacher", "--endpoint", server.url, *game, "-n", 4, "--seed", 50)
    assert found.exit_code == 0 and "1 x endpoint_bad_answer" in found.stdout and "1.000" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--endpoint", "ftp://x/v1"], "--endpoint: an address such as http://127.0.0.1:8000/v1 wanted"),
        (["--endpoint", "http://key@x/v1"], "--endpoint: an address without user"),
        (["--endpoint", "http://127.0.0.1:9/v1", "--ranks", 2], "set --parallel instead"),
        (["--endpoint", "http://127.0.0.1:9/v1", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--endpoint", "http://127.0.0.1:9/v1"], "start the server, or correct the address"),
        (["--api-key-env", "KEY"], "name one with --endpoint URL"),
        (
            ["--env", "textarena/TicTacToe-v0", "--env-arg", "opponent=self", "--endpoint", "http://127.0.0.1:9/v1"],
            "asks 2 players for moves, and behind an endpoint there is one; wanted an opponent inside",
        ),
    ],
)
def test_mistakes_on_the_command_line(arguments, expected):
    found = run("--model", "builtin:tiny", "--env", "GridLake-v0", *arguments)
    assert found.exit_code == 2 and expected in found.stderr and "Traceback" not in found.stderr
