"""Low-rank adapters in place of training all weights (Hu et al., 2106.09685), by `peft`, which is an extra.

The adapters are put into the model where it is, so everything that computes with it sees them. Invariant: a model that
has just been given adapters computes exactly what it computed before, and only they have gradients.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from trpd_agents.config import LoraConfig
from trpd_agents.errors import UserError

ADAPTER = "adapter"
"""The directory beside a saved model's weights that holds what `peft` loads."""

_WEIGHTS = "adapter_model.safetensors"


def require_peft() -> None:
    """Raises UserError if `peft` is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            'learner.lora needs peft, which is not installed: pip install "trpd-agents[peft]"; or set learner.lora=null'
        )


def adapted(model: PreTrainedModel) -> bool:
    """Whether `model` has adapters."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def add_adapters(model: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Give `model` new adapters and freeze everything else. `seed` decides their start, the same on every rank.

    Raises:
        UserError: no `peft`; no layer has a name of `target_modules`; a tied output head among them.
    """
    require_peft()
    import peft

    modules = config.target_modules
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # only ever divided
        lora_dropout=config.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model.add_adapter(wanted)
        except ValueError as error:
            raise UserError(
                f"learner.lora.target_modules={modules!r}: {error}; name linear layers, for example [q_proj, v_proj], "
                "or all-linear"
            ) from None
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(_is_adapted(end) for end in ends):
        raise UserError(
            f"learner.lora.target_modules={modules!r}: the model's output head is its embedding, and an adapter on one "
            "of them would part them; leave both out"
        )


def load_adapters(model: PreTrainedModel, directory: Path) -> None:
    """Put the values that were saved in `directory` into the adapters of `model`.

    Raises:
        UserError: they are not there, or of another shape.
    """
    import peft

    try:
        state = load_file(directory / _WEIGHTS)
        found = peft.set_peft_model_state_dict(
            model, {name.removeprefix("base_model.model."): value for name, value in state.items()}
        )
        missing = [name for name in getattr(found, "missing_keys", []) if ".lora_" in name]
    except (OSError, RuntimeError) as error:
        raise UserError(f"{directory}: the adapters cannot be loaded ({error}); restore the directory") from None
    if missing:
        raise UserError(f"{directory}: no adapter for {', '.join(missing[:3])}; learner.lora must be as it was saved")


@torch.no_grad()
def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of the plain model that computes what `model` with its adapters does, under the plain names.

    Merged in float32. What has an adapter is a new tensor, so this takes the memory of those layers a second time;
    everything else is the model's own, which is left as it is.
    """
    state = {
        name.replace(".base_layer.", "."): value for name, value in model.state_dict().items() if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if _is_adapted(module):
            weight = state[f"{name}.weight"]
            merged = weight.float()
            for adapter in module.active_adapters:
                merged = merged + module.get_delta_weight(adapter).float()
            state[f"{name}.weight"] = merged.to(weight.dtype)
    return state


def plain_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a plain model that computes what `model` does: its own tensors, merged with adapters it has."""
    return merged_state(model) if adapted(model) else model.state_dict()


def strip_adapters(model: PreTrainedModel) -> None:
    """Take the adapters out of `model`, as if it never had any; what they had learned is lost."""
    for name, module in list(model.named_modules()):
        if _is_adapted(module):
            model.set_submodule(name, module.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config


def save_merged(model: PreTrainedModel, directory: Path) -> None:
    """Write the plain model to `directory`, and the adapters as `peft` reads them beside it."""
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(merged_state(model), assign=True)
    plain.tie_weights()
    plain.save_pretrained(directory)
    model.save_pretrained(directory / ADAPTER)


def _is_adapted(module: torch.nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)
