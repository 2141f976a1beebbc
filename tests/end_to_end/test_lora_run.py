"""Whole runs that train adapters: interrupted and resumed they end as undisturbed ones, and leave a plain student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trpd_agents import preparation
from trpd_agents.errors import UserError
from trpd_agents.models import load_model
from trpd_agents.training import train

LORA = {"lora": {"rank": 2, "alpha": 4}}


@pytest.fixture(scope="module")
def finished(configure, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(configure(learner=LORA, training={"checkpoint_every": 2}), path, quiet=True)
    return path


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


def test_a_run_leaves_a_plain_student_its_adapter_and_what_it_belongs_to(finished):
    import peft

    base, student = weights(finished / "base"), weights(finished / "student")
    assert base.keys() == student.keys()
    changed = {name.split(".")[-2] for name in base if not torch.equal(base[name], student[name])}
    assert "q_proj" in changed and not changed & {"embed_tokens", "lm_head", "norm"}
    adapted = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(finished / "base"), finished / "student" / "adapter"
    )
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = load_model(str(finished / "student")).model
    with torch.inference_mode():
        assert torch.allclose(adapted.eval()(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)


def test_a_run_that_is_gone_on_with_ends_as_an_undisturbed_one(finished, tmp_path):
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    checkpoints = sorted((moved / "checkpoints").iterdir())
    assert len(checkpoints) > 1
    shutil.rmtree(checkpoints[-1])
    shutil.rmtree(moved / "student")
    resume(moved)
    a, b = weights(finished / "student"), weights(moved / "student")
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [[json.loads(line) for line in (p / "metrics.jsonl").read_text().splitlines()] for p in (finished, moved)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def resume(path: Path) -> None:
    train(path / "config.yaml", resume=path, quiet=True)


def test_without_peft_nothing_is_loaded(configure, tmp_path, monkeypatch):
    monkeypatch.setattr("trpd_agents.lora.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(preparation, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=r'pip install "trpd-agents\[peft\]"'):
        train(configure(learner=LORA, training={"checkpoint_every": 2}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
