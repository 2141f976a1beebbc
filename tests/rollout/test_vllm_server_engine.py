"""The student behind a server: what is refused at once, and, where vLLM is installed, a real server that takes weights.

Run the slow part:  python -m pytest -m slow -p no:xdist -o addopts= tests/rollout/test_vllm_server_engine.py
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

import httpx2
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trpd_agents.config import LoraConfig
from trpd_agents.config.engine import VLLMServerConfig
from trpd_agents.distributed import World
from trpd_agents.errors import RunError, UserError
from trpd_agents.lora import adapted, add_adapters
from trpd_agents.models import LanguageModel
from trpd_agents.rollout import Collector, Episode, Limits, Request, Sampling, TransformersEngine
from trpd_agents.rollout.student_weights import push_weights
from trpd_agents.rollout.vllm_server_engine import VLLMServerEngine, ask_for_model
from trpd_agents.rollout.weight_probe import WeightProbe, openings
from trpd_agents.scoring import score_tokens
from trpd_agents.textenv import EnvSpec

MAX_TOKENS = 400
ENV = EnvSpec("GuessNumber-v0", {"high": 9, "max_turns": 4})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_down_is_refused_with_its_address_and_how_to_start_it(tmp_path):
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UserError, match=rf"{url}.*--worker-extension-cls trpd_agents\.rollout\.vllm_worker"):
        ask_for_model(VLLMServerConfig(url=url, weights=str(tmp_path)), 100)


def test_a_server_that_takes_no_weights_is_refused(serve, make_lm, tmp_path):
    """One that only answers requests; nothing is left in the directory."""
    lm = make_lm(0)
    settings = VLLMServerConfig(url=serve(lm).url, weights=str(tmp_path / "weights"), patience_seconds=0.0)
    with pytest.raises(UserError, match=r"does not take weights \(HTTP 404.*VLLM_SERVER_DEV_MODE=1"):
        VLLMServerEngine(lm, settings, 100)
    assert list((tmp_path / "weights").iterdir()) == []


def make_served(tokenizer, seed: int) -> LanguageModel:
    config = LlamaConfig(
        vocab_size=(len(tokenizer) // 64 + 1) * 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.15,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, f"served-{seed}")


@pytest.fixture(scope="module")
def url(tokenizer, tmp_path_factory) -> Iterator[str]:
    """A vLLM server, started with other weights than any test's."""
    folder = tmp_path_factory.mktemp("served")
    make_served(tokenizer, 9).save(folder / "model")
    port = free_port()
    options = {
        "--model": folder / "model",
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": "float32",
        "--max-model-len": MAX_TOKENS + 1,
        "--max-num-seqs": 8,
        "--max-num-batched-tokens": 512,
        "--kv-cache-memory-bytes": 50_000_000,
        "--logprobs-mode": "raw_logprobs",
        "--generation-config": "vllm",
        "--worker-extension-cls": "trpd_agents.rollout.vllm_worker.TakesWeights",
    }
    surroundings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command.append("--no-enable-chunked-prefill")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command + [str(word) for pair in options.items() for word in pair],
            env=os.environ | surroundings,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx2.TransportError:
                assert server.poll() is None, (folder / "log").read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_real_server_plays_and_takes_tied_weights(url, tokenizer, ends, tmp_path: Path):
    """Greedy conversations, reading along, a push that arrives, one that does not, and a context that is too short."""
    lm = make_served(tokenizer, 0)
    settings = VLLMServerConfig(url=url, weights=str(tmp_path))
    engine = VLLMServerEngine(lm, settings, MAX_TOKENS)
    greedy = Sampling(8, ends, temperature=0.0)
    plain = TransformersEngine(lm)
    rng = np.random.default_rng(0)
    for _ in range(3):
        requests = [Request(c, rng.integers(3, 262, 5 + c).tolist(), key=c) for c in range(3)]
        for found, wanted in zip(engine.generate(requests, greedy), plain.generate(requests, greedy), strict=True):
            assert found.tokens == wanted.tokens and found.stop == wanted.stop
            np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-4)
    given = [Request(7, [5, 6, 7, 8], key=7)]
    np.testing.assert_allclose(engine.append(given, [2])[0], plain.append(given, [2])[0], atol=1e-4)
    engine.release([0, 1, 2, 7])
    long = [Request(c, rng.integers(3, 262, MAX_TOKENS - 8).tolist(), key=c) for c in range(20, 40)]
    assert all(answer.tokens for answer in engine.generate(long, Sampling(8, ends, seed=1)))  # by several passes
    engine.release(range(20, 40))

    probe = WeightProbe(engine, lm, World())
    probe.start(openings(ENV, lm, [1]))
    collector = Collector(ENV, engine, tokenizer, Sampling(6, ends, seed=5), Limits(4, MAX_TOKENS))
    assert probe.sampled(collector.collect([Episode(seed, seed) for seed in range(6)])) < 1e-4
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    with pytest.raises(RunError, match="disagree by|did not arrive"):
        probe.pushed()
    engine.load_weights(lm.model.state_dict(), 1)
    assert probe.pushed() < 1e-4 and engine.version == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=f"--max-model-len {MAX_TOKENS + 2}"):
        ask_for_model(settings, MAX_TOKENS + 1)
    engine.close()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_real_server_gets_adapters_merged(url, tokenizer, tmp_path: Path):
    """At the start and after an update; the trained model keeps its adapters."""
    lm = make_served(tokenizer, 0)
    add_adapters(lm.model, LoraConfig(rank=4, alpha=8.0), seed=3)
    change_adapters(lm)
    engine = VLLMServerEngine(lm, VLLMServerConfig(url=url, weights=str(tmp_path)), MAX_TOKENS)
    tokens = [np.arange(3, 60)]
    at = [np.arange(1, 57)]
    for version in (1, 2):
        wanted = score_tokens(lm, tokens, at)[0].lt
        np.testing.assert_allclose(engine.logprobs(tokens, at)[0].lt, wanted, atol=1e-4)
        change_adapters(lm)
        assert np.abs(score_tokens(lm, tokens, at)[0].lt - wanted).max() > 1e-2
        push_weights(engine, lm, version)
    np.testing.assert_allclose(engine.logprobs(tokens, at)[0].lt, score_tokens(lm, tokens, at)[0].lt, atol=1e-4)
    assert adapted(lm.model) and list(tmp_path.iterdir()) == []
    engine.close()


def change_adapters(lm: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
