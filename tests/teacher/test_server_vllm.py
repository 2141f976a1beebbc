"""The teacher behind a real vLLM server, started by `trpd serve-teacher`, against the same model in this process.

Run where vLLM is installed:  python -m pytest -m slow -p no:xdist -o addopts= tests/teacher/test_server_vllm.py
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trpd_agents.config import ServerTeacherConfig
from trpd_agents.dialogue import end_ids
from trpd_agents.errors import UserError
from trpd_agents.evaluation.endpoint import evaluate_endpoint
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Request, Sampling, TransformersEngine
from trpd_agents.teacher import LocalTeacher, ServerTeacher, TeacherServer, open_server
from trpd_agents.teacher.http import Endpoint
from trpd_agents.textenv import EnvSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

TOP_K, CONTEXT = 8, 512
GAME = EnvSpec("GuessNumber-v0", {"high": 3, "max_turns": 4})
SURROUNDINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
PATIENCE = 420.0  # seconds for the server to come up, on a busy machine without a GPU


@pytest.fixture(scope="module")
def lm(tokenizer) -> LanguageModel:
    """Untrained, with heads of a size that vLLM has a CPU kernel for, and wider than its tokenizer."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 13,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **shape,
        **special,
    )
    torch.manual_seed(5)
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, "served")


@pytest.fixture(scope="module")
def url(lm, tmp_path_factory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("served")
    lm.save(folder / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from trpd_agents.cli import main; main()", "serve-teacher", str(folder / "model")]
    command += ["--port", str(port), "--max-logprobs", str(TOP_K), "--dtype", "float32"]
    command += ["--", "--enforce-eager", "--served-model-name", "teacher"]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**SURROUNDINGS, **os.environ})
        try:
            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", patience=0.0)
            began = time.monotonic()
            while True:
                try:
                    endpoint.get("models")
                    break
                except Exception:
                    told = (folder / "log.txt").read_text()[-3000:]
                    assert server.poll() is None and time.monotonic() - began < PATIENCE, told
                    time.sleep(1.0)
            yield endpoint.url
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def server(url, tokenizer) -> TeacherServer:
    said: list[str] = []
    config = ServerTeacherConfig(kind="server", url=url, model="teacher")
    opened = open_server(config, tokenizer, top_k=TOP_K, max_tokens=CONTEXT - 1, say=said.append)
    print(*said, sep="\n")
    return opened


def test_its_scores_are_those_of_the_model(server, lm, tokenizer):
    sampling = Sampling(12, frozenset(end_ids(tokenizer)))
    collector = Collector(GAME, TransformersEngine(lm), tokenizer, sampling, Limits(4, CONTEXT - 1))
    played = collector.collect([Episode(seed, seed) for seed in range(12)])
    ours = ServerTeacher(server, top_k=TOP_K).score(played)
    theirs = LocalTeacher(lm, top_k=TOP_K).score(played)
    sampled = max(np.abs(one.lt - other.lt).max() for one, other in zip(ours, theirs, strict=True))
    top = max(np.abs(one.top_lt - other.top_lt).max() for one, other in zip(ours, theirs, strict=True))
    named = np.mean([(one.top_ids == other.top_ids).mean() for one, other in zip(ours, theirs, strict=True)])
    tokens = sum(len(scores.lt) for scores in ours)
    print(f"{tokens} tokens: sampled {sampled:.2g} nats, top {TOP_K} {top:.2g} nats, same ids {named:.5f}")
    assert sampled <= 1e-4 and top <= 1e-4 and named > 0.999


def test_what_it_generates_follows_the_model(server, lm, tokenizer):
    prompt = tokenizer("Say a number from 1 to 3.", add_special_tokens=False)["input_ids"]
    sampling = Sampling(6, frozenset(end_ids(tokenizer)), temperature=0.0)
    (greedy,) = server.engine.generate([Request(1, prompt, 1)], sampling)
    (local,) = TransformersEngine(lm).generate([Request(1, prompt, 1)], sampling)
    assert greedy.tokens == local.tokens and greedy.stop == local.stop
    many = [Request(100 + key, prompt, key) for key in range(400)]
    said = [c.tokens[0] for c in server.engine.generate(many, Sampling(1, sampling.end_ids))]
    with torch.no_grad():
        wanted = lm.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    share = np.bincount(said, minlength=len(wanted)) / len(said)
    likely = np.argsort(wanted)[-5:]
    assert np.abs(share[likely] - wanted[likely]).max() < 0.1  # four standard errors
    again = [c.tokens[0] for c in server.engine.generate([Request(900 + r.key, prompt, r.key) for r in many], sampling)]
    assert set(again) == {greedy.tokens[0]}


def test_more_top_tokens_than_it_gives_are_refused(url, tokenizer):
    config = ServerTeacherConfig(kind="server", url=url, model="teacher")
    with pytest.raises(UserError, match=f"--max-logprobs {TOP_K + 1}"):
        open_server(config, tokenizer, top_k=TOP_K + 1)
    with pytest.raises(UserError, match="--max-model-len"):
        open_server(config, tokenizer, max_tokens=CONTEXT)
    with pytest.raises(UserError, match="does not serve a model 'other'"):
        open_server(config.model_copy(update={"model": "other"}), tokenizer)


def test_the_classic_dialect_says_the_same(url, server, tokenizer, monkeypatch):
    from trpd_agents.teacher import probe
    from trpd_agents.teacher.dialects import Dialect

    monkeypatch.setattr(probe, "Dialect", [Dialect.ECHO])
    config = ServerTeacherConfig(kind="server", url=url, model="teacher")
    monkeypatch.setattr(probe, "check_ids", lambda *_: None)
    echo = open_server(config, tokenizer, top_k=TOP_K)
    assert echo.probe.dialect is Dialect.ECHO and np.abs(echo.probe.lt - server.probe.lt).max() <= 1e-5


def test_it_plays_by_chat(url, lm):
    found = evaluate_endpoint(Endpoint(url), "teacher", GAME, 4, max_new_tokens=6)
    assert found.episodes == 4 and found.errors == {} and found.tokens > 0
