"""What cannot work with vLLM is refused before a model loads; none of this needs vLLM."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError, field_validator
from transformers import MambaConfig

from trpd_agents.config import parse_config
from trpd_agents.config.engine import VLLMEngineConfig
from trpd_agents.errors import RunError, UserError
from trpd_agents.preparation import check_models
from trpd_agents.rollout import vllm_process
from trpd_agents.rollout.vllm_process import require_served, require_vllm
from trpd_agents.rollout.whole_conversations import require_names

RECIPE: dict[str, Any] = {
    "env": {"id": "GuessNumber-v0", "kwargs": {"high": 3, "max_turns": 3}},
    "student": {"model": "builtin:tiny"},
    "teacher": {"model": "builtin:tiny"},
    "rollout": {"engine": "vllm"},
    "credit": {"preset": "opd"},
    "learner": {"lr": 1e-3, "device": "cpu"},
    "training": {"steps": 1, "episodes_per_step": 2},
}


def recipe(**sections: dict[str, Any]) -> dict[str, Any]:
    return RECIPE | {name: RECIPE[name] | change for name, change in sections.items()}


@pytest.fixture
def installed(monkeypatch):
    """`installed(version)`: as if that version of vLLM were there, or none."""

    def pretend(version: str | None) -> None:
        def found(name: str) -> str:
            if version is None or name != "vllm":
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(vllm_process.importlib.metadata, "version", found)
        monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
        for name in vllm_process._SURROUNDINGS:  # set only where the user has not, and taken back after the test
            monkeypatch.setenv(name, "as the user says")

    return pretend


def test_the_engine_may_be_given_by_its_name_alone():
    by_name, in_full = parse_config(recipe()), parse_config(recipe(rollout={"engine": {"kind": "vllm"}}))
    assert by_name == in_full and by_name.rollout.engine == VLLMEngineConfig()
    assert parse_config(recipe(rollout={"engine": "transformers"})).rollout.engine.kind == "transformers"
    assert parse_config(recipe(learner={"correction": "mask"})).learner.correction.limit == 2.0


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"rollout": {"engine": "vlm"}}, "rollout.engine.kind: 'transformers' or 'vllm' or 'vllm_server' wanted"),
        (
            {"rollout": {"engine": {"sleep": True}}},
            "rollout.engine.sleep: unknown key; known here: cuda_graphs, dtype, kind",
        ),
        ({"rollout": {"engine": {"kind": "vllm", "memory_share": 1.5}}}, "rollout.engine.memory_share: less than 1"),
        ({"rollout": {"engine": "vllm_server"}}, "rollout.engine.url: missing"),
        (
            {"rollout": {"engine": {"kind": "vllm_server", "url": "gpu:8000", "weights": "/w"}}},
            "rollout.engine.url: an address such as http://127.0.0.1:8000/v1 wanted",
        ),
        ({"training": {"ranks": 2}}, "training.ranks: 1 wanted with rollout.engine.kind=vllm, found 2"),
        ({"learner": {"correction": {"limit": 1.0}}}, "learner.correction.limit: greater than 1 wanted, found 1.0"),
        (
            {"learner": {"correction": "truncate"}, "credit": {"preset": "trajectory"}},
            "learner.correction.kind: the estimator 'full' takes the expectation over all tokens",
        ),
    ],
)
def test_settings_that_contradict_are_named(sections, expected):
    with pytest.raises(UserError) as caught:
        parse_config(recipe(**sections))
    assert expected in str(caught.value)


@pytest.mark.parametrize("engine", ["vllm", {"kind": "vllm_server", "url": "http://127.0.0.1:1/v1", "weights": "/w"}])
def test_adapters_go_with_every_engine(engine):
    config = parse_config(recipe(learner={"lora": {"rank": 4, "alpha": 8.0}}, rollout={"engine": engine}))
    assert config.learner.lora.rank == 4


def test_a_correction_by_mask_goes_with_an_exact_estimator():
    config = parse_config(recipe(learner={"correction": "mask"}, credit={"preset": "trajectory"}))
    assert config.learner.correction.kind == "mask"


def test_vllm_that_is_not_there_is_refused_before_a_model_loads(installed, monkeypatch):
    installed(None)
    monkeypatch.setattr("trpd_agents.models.AutoModelForCausalLM", None)
    with pytest.raises(UserError, match=r'not installed; install it with: pip install "trpd-agents\[vllm\]"'):
        check_models(parse_config(recipe()))


def test_vllm_that_is_too_old_is_refused_with_both_versions(installed):
    installed("0.9.2")
    with pytest.raises(UserError, match=r"found vLLM 0\.9\.2, wanted 0\.32 or newer"):
        require_vllm(VLLMEngineConfig(), "cpu")
    installed("0.40.1")
    assert require_vllm(VLLMEngineConfig(), "cuda") is sys.modules["vllm"]


def test_vllm_that_cannot_be_imported_is_refused(installed, monkeypatch):
    installed("0.40.1")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"vLLM 0\.40\.1 cannot be imported"):
        require_vllm(VLLMEngineConfig(), "cpu")


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        (VLLMEngineConfig(), "mps", "learner.device=mps: vLLM runs on cuda or cpu"),
        (VLLMEngineConfig(sleep=True), "cpu", "rollout.engine.sleep=true on a CPU: there is no GPU memory"),
    ],
)
def test_a_device_that_vllm_cannot_use_is_refused(installed, settings, device, expected):
    installed("0.40.1")
    with pytest.raises(UserError, match=expected):
        require_vllm(settings, device)


def test_attention_heads_without_a_kernel_are_refused_on_a_cpu_only(monkeypatch, tmp_path):
    """The built-in models are too small for vLLM's CPU build."""
    backend = types.ModuleType("vllm.v1.attention.backends.cpu_attn")
    backend.CPUAttentionBackend = types.SimpleNamespace(get_supported_head_sizes=lambda: [32, 64])  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.attention", "vllm.v1.attention.backends"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    with pytest.raises(
        UserError, match=r"'builtin:tiny' on a CPU: its attention heads have size 16, wanted one of 32, 64"
    ):
        require_served("builtin:tiny", False, "cpu")
    require_served("builtin:tiny", False, "cuda")
    MambaConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"on a CPU: it has no attention; set rollout.engine=transformers"):
        require_served(str(tmp_path), False, "cpu")


def test_the_reason_of_a_refusal_is_what_was_wrong_and_not_where_to_read_on():
    class Settings(BaseModel):
        @field_validator("length", check_fields=False)
        @classmethod
        def check(cls, length: int) -> int:
            raise ValueError("short of memory")

        length: int

    with pytest.raises(ValidationError) as caught:
        Settings(length=3)
    assert str(caught.value).splitlines()[-1].strip().startswith("For further information")
    assert vllm_process._reason(caught.value) == "Value error, short of memory"
    assert vllm_process._reason(RuntimeError("while loading\nno such layer\n")) == "no such layer"
    assert vllm_process._reason(RuntimeError()) == "RuntimeError"


def test_weights_of_another_model_are_refused():
    state = {"a.weight": torch.zeros(1), "lora_A": torch.zeros(1)}
    with pytest.raises(RunError, match="missing b.weight; unknown to it lora_A"):
        require_names(state, frozenset({"a.weight", "b.weight"}))
    require_names(state, frozenset(state))


def test_what_starts_a_server_is_what_the_documentation_says():
    from trpd_agents.rollout.vllm_server_engine import SERVER_FLAGS
    from trpd_agents.rollout.vllm_worker import TakesWeights

    text = (Path(__file__).resolve().parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    assert SERVER_FLAGS.split(" vllm serve")[0] in text and "--logprobs-mode raw_logprobs" in text
    assert f"{TakesWeights.__module__}.{TakesWeights.__name__}" in SERVER_FLAGS
    assert f"{TakesWeights.__module__}.{TakesWeights.__name__}" in text
