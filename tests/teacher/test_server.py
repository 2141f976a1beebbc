"""The teacher behind a server: its scores are those of the model itself, and nothing else is believed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from trpd_agents.config import ServerTeacherConfig
from trpd_agents.dialogue import train_tokenizer
from trpd_agents.errors import RunError, UserError
from trpd_agents.models import LanguageModel
from trpd_agents.teacher import LocalTeacher, ServerTeacher, http, open_server
from trpd_agents.textenv import EnvSpec

SPEC = EnvSpec("KeyChain-v0", {"length": 3})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(http, "LONGEST_DELAY", 0.1)


@pytest.fixture
def played(play):
    return [play(SPEC, seed, [None, "nonsense", None]) for seed in range(3)]


@pytest.fixture
def settings():
    def build(server, **changes) -> ServerTeacherConfig:
        given = {"url": server.url, "model": "teacher", "timeout_seconds": 20.0, "patience_seconds": 20.0, **changes}
        return ServerTeacherConfig(kind="server", **given)

    return build


def assert_same(ours, theirs, *, tolerance=1e-5):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.abs(one.lt - other.lt).max() <= tolerance
        if other.top_lt is None:
            assert one.top_lt is None and one.top_ids is None
        else:
            assert one.top_lt.shape == other.top_lt.shape and one.top_ids.dtype == other.top_ids.dtype
            assert np.abs(one.top_lt - other.top_lt).max() <= tolerance
            assert (one.top_ids == other.top_ids).mean() > 0.999  # ties may be in another order


@pytest.mark.parametrize("top_k", [0, 1, 8])
@pytest.mark.parametrize("dialects", [("prompt_logprobs",), ("echo",)])
def test_its_scores_are_those_of_the_model(make_lm, tokenizer, serve, settings, played, top_k, dialects):
    server = serve(make_lm(3), dialects=dialects)
    opened = open_server(settings(server), tokenizer, top_k=top_k)
    assert opened.probe.dialect == dialects[0] and opened.probe.noise <= 1e-5
    teacher = ServerTeacher(opened, top_k=top_k)
    assert_same(teacher.score(played), LocalTeacher(make_lm(3), top_k=top_k).score(played))
    assert server.most_at_once > 1


def test_what_is_sent_ends_with_the_last_action_token(make_lm, tokenizer, serve, settings, played):
    server = serve(make_lm(3))
    teacher = ServerTeacher(open_server(settings(server), tokenizer))
    server.requests.clear()
    teacher.score(played)
    sent = [body["prompt"] for body in server.requests]
    for trajectory in played:
        assert trajectory.tokens[: trajectory.action_positions()[-1] + 1].tolist() in sent
    assert len(sent) == len(played) + 1  # and the text that tells whether it is still the same model


def test_at_most_so_many_requests_at_once(make_lm, tokenizer, serve, settings, played):
    server = serve(make_lm(3))
    teacher = ServerTeacher(open_server(settings(server, max_parallel=2), tokenizer))
    server.most_at_once, server.delay = 0, 0.03
    teacher.score(played * 3)
    assert server.most_at_once == 2


def test_an_episode_without_actions_is_not_asked_about(make_lm, tokenizer, serve, settings, played):
    server = serve(make_lm(3))
    teacher = ServerTeacher(open_server(settings(server), tokenizer), top_k=4)
    silent = played[0]
    silent.turns = []
    found = teacher.score([silent, played[1]])
    assert len(found[0].positions) == len(found[0].lt) == 0 and found[0].top_ids is None
    assert_same(found[1:], LocalTeacher(make_lm(3), top_k=4).score([played[1]]))


# ---- at the start ----


def refused(server, tokenizer, config, **wanted) -> str:
    with pytest.raises(UserError) as error:
        open_server(config, tokenizer, **wanted)
    assert "Traceback" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"name": "other"}, "does not serve a model 'teacher', but 'other'"),
        ({"dialects": ()}, "gives no log-probabilities of a prompt"),
        ({"dialects": ("echo",), "ids_by_name": False}, "top tokens come by their texts"),
        ({"max_logprobs": 3}, "--max-logprobs 4"),
        ({"fewer": 2}, "4 top tokens were asked for"),
        ({"nan": True}, "no finite log-probability"),
        ({"noise": 1.0}, "scored 5 times differ by up to"),
        ({"shift_all": 1}, "shifted"),
        ({"shift": 1}, "not aligned"),
        ({"shift": -1}, "not aligned"),
        ({"shift": 1, "dialects": ("echo",)}, "not aligned"),
        ({"context": 100}, "--max-model-len 201"),
        ({"fail_next": 10**6, "status": 503}, "out of order"),
    ],
)
def test_a_server_that_could_not_teach_is_refused(make_lm, tokenizer, serve, settings, switches, expected):
    server = serve(make_lm(3), **switches)
    message = refused(server, tokenizer, settings(server), top_k=4, max_tokens=200)
    assert expected in message and server.url in message


def test_shifted_scores_without_top_tokens_are_noticed(make_lm, tokenizer, serve, settings):
    server = serve(make_lm(3), dialects=("echo",), shift=1)
    assert "not aligned" in refused(server, tokenizer, settings(server))


def test_nobody_there(make_lm, tokenizer, serve, settings):
    server = serve(make_lm(3))
    server.stop()
    began = time.monotonic()
    message = refused(server, tokenizer, settings(server))
    assert server.url in message and "trpd serve-teacher" in message and time.monotonic() - began < 5


def test_other_tokens_are_refused(make_lm, tokenizer, serve, settings):
    server = serve(make_lm(3, vocab_size=len(tokenizer) - 1))
    assert f"go up to {len(tokenizer) - 1}" in refused(server, tokenizer, settings(server))
    used = sorted(tokenizer.get_vocab().values())[-1]
    server = serve(make_lm(3), rename={used: "elsewhere"})
    assert "'elsewhere' for the server" in refused(server, tokenizer, settings(server))


def test_another_way_to_tokenise_is_refused(make_lm, tokenizer, serve, settings, monkeypatch):
    server = serve(make_lm(3))
    honest = type(server).answer

    def answer(self, path, body, key):
        found = honest(self, path, body, key)
        return {"tokens": found["tokens"][:-1]} if path == "/tokenize" else found

    monkeypatch.setattr(type(server), "answer", answer)
    assert "as different tokens" in refused(server, tokenizer, settings(server))
    monkeypatch.setattr(type(server), "answer", honest)
    server.tokenizes = False
    open_server(settings(server), tokenizer)


def test_a_tokenizer_that_is_named_is_compared(make_lm, tokenizer, serve, settings, model_directory, tmp_path):
    server = serve(make_lm(3))
    open_server(settings(server, tokenizer=str(model_directory(0))), tokenizer)
    lm = make_lm(0)
    LanguageModel(lm.model, train_tokenizer(["entirely other words"] * 9, 400), "other").save(tmp_path)
    assert "do not share a vocabulary" in refused(server, tokenizer, settings(server, tokenizer=str(tmp_path)))


def test_the_key_is_sent_and_never_told(make_lm, tokenizer, serve, settings, monkeypatch):
    server = serve(make_lm(3), key="sesame-42")
    assert "set api_key_env" in refused(server, tokenizer, settings(server))
    config = settings(server, api_key_env="TEACHER_KEY")
    assert "TEACHER_KEY" in refused(server, tokenizer, config)
    monkeypatch.setenv("TEACHER_KEY", "wrong-43")
    message = refused(server, tokenizer, config)
    assert "wrong key" in message and "wrong-43" not in message
    monkeypatch.setenv("TEACHER_KEY", "sesame-42")
    said: list[str] = []
    open_server(config, tokenizer, say=said.append)
    assert said and "sesame-42" not in " ".join(said) and "sesame-42" not in config.model_dump_json()


# ---- in a run ----


@pytest.fixture
def teaching(make_lm, tokenizer, serve, settings):
    """A server, its teacher, and what the teacher said to people."""
    server, said = serve(make_lm(3)), []
    opened = open_server(settings(server, patience_seconds=5.0), tokenizer, top_k=4, say=said.append)
    said.clear()
    return server, ServerTeacher(opened, top_k=4), said


def test_errors_are_tried_again(teaching, make_lm, played):
    server, teacher, said = teaching
    server.fail_next = 6
    assert_same(teacher.score(played), LocalTeacher(make_lm(3), top_k=4).score(played))
    assert server.fail_next == 0
    assert len(said) == 2 and "out of order" in said[0] and said[1].endswith("going on")


def test_a_server_that_is_away_for_a_while_is_waited_for(teaching, make_lm, played):
    server, teacher, said = teaching
    server.stop()
    threading.Timer(0.5, server.start).start()
    assert_same(teacher.score(played), LocalTeacher(make_lm(3), top_k=4).score(played))
    assert len(said) == 2 and server.url in said[0]


def test_a_slow_server_is_asked_again(teaching, make_lm, played):
    server, teacher, said = teaching
    teacher.server.endpoint.timeout = 1.5
    server.slow_next = 1
    assert_same(teacher.score(played[:1]), LocalTeacher(make_lm(3), top_k=4).score(played[:1]))
    assert "timed out" in said[0]


def test_patience_ends(teaching, played):
    server, teacher, _ = teaching
    teacher.server.endpoint.patience = 0.3
    server.stop()
    with pytest.raises(RunError, match=r"did not answer for \d s.*trpd train --resume"):
        teacher.score(played)


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"nan": True}, "NaN"),
        ({"fewer": 1}, "top tokens were asked for"),
        ({"shift_all": 1}, "shifted"),
        ({"name": "other"}, "does not exist"),
        ({"dialects": ()}, "prompt_logprobs: one entry"),
    ],
)
def test_answers_that_go_wrong_end_the_run(teaching, played, switches, expected):
    server, teacher, _ = teaching
    for name, value in switches.items():
        setattr(server, name, value)
    with pytest.raises(RunError, match=expected):
        teacher.score(played)


def test_another_model_under_the_same_name_ends_the_run(teaching, make_lm, played):
    server, teacher, _ = teaching
    teacher.score(played)
    server.lm = make_lm(4)
    with pytest.raises(RunError, match="another model than at the start"):
        teacher.score(played)


def test_a_score_that_is_not_finite_is_handed_on(make_lm, tokenizer, serve, settings, played):
    server = serve(make_lm(3))
    teacher = ServerTeacher(open_server(settings(server), tokenizer), top_k=2)
    where = int(played[0].action_positions()[1])
    honest = server._distributions

    def ruled_out(prompt, call):
        logp = honest(prompt, call)
        if prompt[:8] == played[0].tokens[:8].tolist():
            logp[where, prompt[where]] = -np.inf
            logp[where + 1] = np.nan
        return logp

    server._distributions = ruled_out
    (scores,) = teacher.score(played[:1])
    assert np.isneginf(scores.lt[1]) and np.isnan(scores.lt[2])
    assert np.isfinite(np.delete(scores.lt, [1, 2])).all() and np.isfinite(scores.top_lt[1]).all()
