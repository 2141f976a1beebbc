"""Whole runs of students with recurrent layers, which the plain engine plays with."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from trpd_agents import training
from trpd_agents.cli import app
from trpd_agents.config import RunConfig, dump_config
from trpd_agents.interrupt import Interrupted
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.plain_engine import PlainEngine
from trpd_agents.storage import read_trajectories
from trpd_agents.training import train

Changes = Callable[..., RunConfig]

LAYERS: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "head_dim": 16},
        **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    },
}
NOTICE = "has recurrent layers or attention of its own: it plays by the plain engine, which is slower"


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Callable[[str, int], Path]:
    """`folder(family, seed)`: where such a model is."""
    made: dict[tuple[str, int], Path] = {}

    def build(family: str, seed: int) -> Path:
        if (family, seed) not in made:
            heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
            sizes = {"vocab_size": len(tokenizer), "intermediate_size": 64, "max_position_embeddings": 512}
            ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
            ends |= {"bos_token_id": None, "tie_word_embeddings": False}
            config = AutoConfig.for_model(family, **{**heads, **sizes, **ends, **LAYERS[family]})
            config.initializer_range = 0.2
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():  # what all states share is made to speak for the end of a turn
                model.get_input_embeddings().weight += 1.0
                states = model.base_model(torch.arange(3, len(tokenizer))[None], use_cache=False).last_hidden_state
                shared = states[0].mean(0)
                model.get_output_embeddings().weight[tokenizer.eos_token_id] += 5 * shared / shared.square().sum()
            made[family, seed] = tmp_path_factory.mktemp(family)
            LanguageModel(model, tokenizer, family).save(made[family, seed])
        return made[family, seed]

    return build


@pytest.fixture(scope="module")
def changed(configure, folder) -> Changes:
    """`changed(family, **sections)`: the run of `configure`, of two steps, with such a student and such a teacher."""

    def build(family: str, **sections: Any) -> RunConfig:
        models = {"student": {"model": str(folder(family, 0))}, "teacher": {"model": str(folder(family, 1))}}
        steps = {"steps": 2, "save_trajectories_every": 1, **sections.pop("training", {})}
        return configure(**models, training=steps, **sections)

    return build


@pytest.fixture(scope="module")
def finished(changed, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(changed("qwen3_5_text"), path, quiet=True)
    return path


def metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "tokens_per_second")
    return [{name: v for name, v in line.items() if not name.startswith(times)} for line in lines]


@pytest.mark.parametrize("family", LAYERS)
def test_train_and_eval_say_so_once_and_work(family, changed, tmp_path):
    (tmp_path / "run.yaml").write_text(dump_config(changed(family)))
    done = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    for name in ("student", "teacher"):  # both play: evaluations are of both
        assert done.output.count(f"model {changed(family).model_dump()[name]['model']!r}") == 1
    assert done.output.count(NOTICE) == 2
    found = metrics(tmp_path / "run")
    assert all(line["action_tokens"] > 0 and line["sampler_gap"] < 1e-4 for line in found)
    assert found[0]["grad_norm"] > 0

    arguments = ["eval", "--model", str(tmp_path / "run" / "student"), "--env", "GuessNumber-v0", "-n", "4"]
    done = CliRunner().invoke(app, [*arguments, "--max-turns", "2", "--max-new-tokens", "3"])
    assert done.exit_code == 0, done.output
    assert done.output.count(NOTICE) == 1 and "success rate" in done.output


def test_an_interrupted_run_ends_as_if_nothing_had_been(finished, changed, tmp_path, monkeypatch):
    record = training.record

    def recorded(*arguments: Any) -> None:
        record(*arguments)
        if arguments[4] == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training, "record", recorded)
        with pytest.raises(Interrupted, match="stopped after step 1 of 2"):
            train(changed("qwen3_5_text"), tmp_path / "run", quiet=True)
    np.random.seed(5), torch.manual_seed(5)  # a new process starts in another state
    train(changed("qwen3_5_text"), resume=tmp_path / "run", quiet=True)
    assert metrics(tmp_path / "run") == metrics(finished)
    student = Path("student", "model.safetensors")
    assert (tmp_path / "run" / student).read_bytes() == (finished / student).read_bytes()


def test_two_ranks_do_what_one_does(finished, changed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(changed("qwen3_5_text", training={"ranks": 2}), tmp_path / "two", quiet=True)
    stored, wanted = (
        read_trajectories(path / "trajectories" / "step-000001.parquet") for path in (tmp_path / "two", finished)
    )
    assert [t.tokens.tolist() for t in stored] == [t.tokens.tolist() for t in wanted]
    first, alone = metrics(tmp_path / "two")[0], metrics(finished)[0]
    for name in ("loss", "grad_norm", "success", "action_tokens"):
        assert first[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("guidance", [{"kind": "bernoulli", "until": 1.0}, {"kind": "rescue", "enter": 0.0}])
def test_a_teacher_with_recurrent_layers_guides(guidance, changed, tmp_path, monkeypatch):
    scored: list[int] = []
    append = PlainEngine.append

    def counted(self: PlainEngine, requests: Any, counts: Any) -> Any:
        scored.append(sum(counts))
        return append(self, requests, counts)

    monkeypatch.setattr(PlainEngine, "append", counted)
    train(changed("lfm2", credit={"preset": "opd", "guidance": guidance}), tmp_path / "run", quiet=True)
    assert scored and (sum(scored) > 0) == (guidance["kind"] == "rescue")
    played = [t for file in sorted((tmp_path / "run" / "trajectories").iterdir()) for t in read_trajectories(file)]
    assert {turn.author for t in played for turn in t.turns} == {"teacher", "student"}
    found = metrics(tmp_path / "run")[0]
    assert found["guided_tokens"] > 0 and found["imitation_nll"] > 0
