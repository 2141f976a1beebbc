"""Tiny real models for the whole suite: a Llama of 32 hidden units, and a tokenizer made here from the bundled
environments' texts. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from trpd_agents.dialogue import end_ids, train_tokenizer
from trpd_agents.models import LanguageModel
from trpd_agents.textenv import EnvSpec, make

torch.set_num_threads(1)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MakeLM = Callable[..., LanguageModel]
MAX_END_WEIGHT = 0.17  # makes the end token about as likely as one in five


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    texts = []
    for name in ("KeyChain-v0", "GuessNumber-v0", "GridLake-v0"):
        env = make(EnvSpec(name))
        for seed in range(4):
            texts += [env.instructions, env.reset(seed), str(env.expert())]
        env.close()
    return train_tokenizer(texts, 400)


@pytest.fixture(scope="session")
def make_lm(tokenizer: PreTrainedTokenizerBase) -> MakeLM:
    """`make_lm(seed, hidden=32, vocab_size=..., dtype=...)`: an untrained model with decided opinions."""

    def build(
        seed: int = 0, *, hidden: int = 32, vocab_size: int | None = None, dtype: torch.dtype = torch.float32
    ) -> LanguageModel:
        config = LlamaConfig(
            vocab_size=vocab_size or len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.3,  # the usual 0.02 gives nearly uniform distributions, in which mistakes hide
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        with torch.no_grad():
            # A direction that all hidden states share lets the head prefer one token: the end of a turn.
            model.model.embed_tokens.weight += 1.0
            if tokenizer.eos_token_id < config.vocab_size:
                model.lm_head.weight[tokenizer.eos_token_id] += MAX_END_WEIGHT
        return LanguageModel(model.to(dtype).eval(), tokenizer, f"tiny-{seed}")

    return build


@pytest.fixture(scope="session")
def model_directory(make_lm: MakeLM, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_directory(seed)`: the model of that seed, saved."""
    made: dict[int, Path] = {}

    def saved(seed: int = 0) -> Path:
        if seed not in made:
            made[seed] = tmp_path_factory.mktemp("models") / f"tiny-{seed}"
            make_lm(seed).save(made[seed])
        return made[seed]

    return saved


@pytest.fixture(scope="session")
def ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    return frozenset(end_ids(tokenizer))


@pytest.fixture(scope="session")
def reference_logprobs() -> Callable[[LanguageModel, np.ndarray], torch.Tensor]:
    """`[T, V]` nats: row t is the distribution that token t came from, by a plain forward pass; row 0 is NaN."""

    @torch.no_grad()
    def compute(lm: LanguageModel, tokens: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))[None]
        logp = lm.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        return torch.cat([torch.full_like(logp[:1], torch.nan), logp[:-1]])

    return compute


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """`serve(lm, **switches)`: a `ModelServer`, in tests/model_server.py, that is stopped after the test."""
    if "model_server" not in sys.modules:
        spec = importlib.util.spec_from_file_location("model_server", Path(__file__).with_name("model_server.py"))
        assert spec is not None and spec.loader is not None
        sys.modules["model_server"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["model_server"])
    made: list[Any] = []

    def start(lm: LanguageModel, **switches: Any) -> Any:
        made.append(sys.modules["model_server"].ModelServer(lm, **switches))
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    """tests/report_runs.py."""
    spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).with_name("report_runs.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_run(runs: ModuleType, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[..., Path]:
    """`make_run(name, {step: episodes}, config=..., rows=..., evaluations=..., finished=...)`: a run's directory."""
    return partial(runs.make_run, tmp_path, tokenizer)
