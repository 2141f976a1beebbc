"""Loading causal language models, and the two halves the rest of the package computes with.

A model is used as `hidden` or `encode` (token ids to last hidden states) and `logits` (hidden states to logits):
log-probabilities are wanted at action positions only: the [T, V] tensor of a whole forward pass is never made.
Invariant, checked when a model is loaded: `logits(hidden(ids))` equals the model's own logits. And, checked before the
first use of it: `encode` gives each token the state that its sequence alone would give it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from trpd_agents.batching import micro_batches, packed_batches, pad_ids
from trpd_agents.conversation_cache import ConversationCache
from trpd_agents.errors import UserError
from trpd_agents.feeding import ATTENTION as BY_CONVERSATION
from trpd_agents.feeding import Feed
from trpd_agents.lora import adapted, save_merged
from trpd_agents.packing import ATTENTION, pack
from trpd_agents.probes import caches_right, packs_right, remembers_right, sees_as_told, using

BUILTIN = "builtin:"

logging.disable_progress_bar()  # its bars for loading and writing shards would tear through the run's own display


def builtin_models() -> dict[str, Path]:
    """The small base models that ship with the package, by name."""
    folder = Path(str(resources.files("trpd_agents"))) / "base_models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def resolve_model(ref: str) -> str:
    """The directory or hub id behind `ref`: `builtin:NAME`, a local directory, or a hub id.

    Raises:
        UserError: unknown builtin name; a path that does not exist or holds no model.
    """
    if ref.startswith(BUILTIN):
        known = builtin_models()
        name = ref.removeprefix(BUILTIN)
        if name not in known:
            names = ", ".join(BUILTIN + k for k in known) or "none"
            raise UserError(f"model {ref!r}: no such built-in model; there are: {names}")
        return str(known[name])
    path = Path(ref).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise UserError(
                f"model {ref!r}: found a {'directory' if path.is_dir() else 'file'} without config.json; wanted a "
                "directory written by save_pretrained (config.json, *.safetensors, tokenizer.json)"
            )
        return str(path)
    # A hub id is NAME or OWNER/NAME; anything else that is not there is a mistyped path.
    if ref.startswith((".", "/", "~")) or ref.count("/") > 1 or ref.endswith("/") or not ref:
        raise UserError(
            f"model {ref!r}: no such directory; wanted a model directory, a hub id (OWNER/NAME) or {BUILTIN}NAME"
        )
    return ref


def content_hash(ref: str) -> str:
    """A hash that changes when the weights or the tokenizer behind `ref` change. A hub id hashes by name."""
    path = Path(resolve_model(ref))
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix in {".json", ".safetensors", ".jinja"}:
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    else:
        digest.update(ref.encode())
    return digest.hexdigest()


def pick_device(name: str = "auto") -> torch.device:
    """The torch device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: the device is not present.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    if not present.get(kind, False):
        have = ", ".join(k for k, there in present.items() if there)
        raise UserError(f"learner.device={name}: not on this machine; present: {have}; use learner.device=auto")
    return torch.device(name)


def pick_autocast(dtype: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16 over float32 weights. `auto`: on CUDA devices that have it; a small model on a CPU
    gains nothing.

    Raises:
        UserError: bfloat16 is asked for and the device does not have it.
    """
    if dtype == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "bfloat16" and not has_bfloat16(device):
        raise UserError(
            f"learner.dtype=bfloat16: {device.type} here cannot compute in it; set learner.dtype=float32, or auto, "
            "which takes bfloat16 only where it is there"
        )
    return dtype == "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products on `device` can be in bfloat16; emulation on a CUDA device is slow and does not count."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        ones = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        return bool(torch.isfinite(ones @ ones).all())
    except (RuntimeError, TypeError):
        return False


SMALL = 30_000_000  # parameters; below this a second thread costs a CPU process more than it gives


def use_threads(parameters: int, processes: int) -> None:
    """Give this process its share of the cores for a model of this size, unless OMP_NUM_THREADS says otherwise.

    Small matrices do not fill two threads, and threads that wait for each other collapse when the cores are shared.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if parameters < SMALL else max(1, (os.cpu_count() or 1) // processes))


@dataclass
class LanguageModel:
    """A causal language model with its tokenizer. `ref` is what the user called it.

    `bfloat16` says whether scoring computes in it over the weights as they are; the learner says so for itself.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ref: str
    bfloat16: bool = False

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def vocab_size(self) -> int:
        """Rows of the output head: may exceed the tokenizer's vocabulary by padding."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states `[B, T, H]` of right-padded `ids` `[B, T]`. Causal: padding on the right needs no mask."""
        states: torch.Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    @cached_property
    def _attention_replaced(self) -> bool:
        """Whether its attention may be ours: then all of its layers ask for it and say how far back they see."""
        plain = self.model.config._attn_implementation in ("eager", "sdpa", ATTENTION)
        return plain and sees_as_told(self)

    @cached_property
    def packs(self) -> bool:
        """Whether sequences may share a row: its attention may be ours, and a trial comes out right."""
        if not self._attention_replaced or not packs_right(self):
            return False
        self.model.config._attn_implementation = ATTENTION  # for good: a checkpointed layer runs again in the backward
        return True

    @cached_property
    def caches(self) -> bool:
        """Whether a `ConversationCache` can hold its conversations, see `extend`: keys and values are all that it
        remembers of them, its attention may be ours, and a trial comes out right.
        """
        return self._attention_replaced and caches_right(self)

    @cached_property
    def remembers(self) -> bool:
        """Whether conversations can go on from what it remembers of them, see `conversation_states`: a trial comes out
        right. Nearly all models do.
        """
        return remembers_right(self)

    def batches(self, sequences: Sequence[np.ndarray], token_budget: int) -> list[list[int]]:
        """Indices of `sequences` in groups for `encode`, of at most `token_budget` tokens as it encodes them.

        A sequence longer than the budget gets a group of its own; empty ones are left out.
        """
        if self.packs:
            return packed_batches(sequences, token_budget)
        return micro_batches([len(s) for s in sequences], token_budget)

    def encode(self, sequences: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[np.ndarray]]:
        """Last hidden states `[R, H]` of `sequences`, int `[T_i]` each, and for each of them the rows `[T_i]` of its
        tokens. None is empty. Where the model allows there is no padding, and beginnings in common have their rows in
        common.
        """
        if self.packs:
            return self.encode_packed(sequences)
        ids = pad_ids(sequences, self.device)
        rows = [i * ids.shape[1] + np.arange(len(s)) for i, s in enumerate(sequences)]
        return self.hidden(ids).flatten(0, 1), rows

    def encode_packed(self, sequences: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[np.ndarray]]:
        """What `encode` gives where the model `packs`."""
        row = pack(sequences, self.device)
        # The implementation of `ATTENTION` reads `segments`.
        found = self.model.base_model(
            input_ids=row.ids,
            position_ids=row.position_ids,
            attention_mask=self._no_mask,
            use_cache=False,
            segments=row.segments,
        )
        return found.last_hidden_state[0], row.columns

    def extend(self, ids: torch.Tensor, feed: Feed, cache: ConversationCache) -> torch.Tensor:
        """Hidden states `[N, H]` of `ids` int64 `[N]`, which go into `cache` as `feed` says; the model `caches`."""
        cache.expect(feed.rows, feed.columns, feed.width)
        with using(self.model.config, BY_CONVERSATION):
            found = self.model.base_model(
                input_ids=ids[None],
                position_ids=feed.columns[None],
                attention_mask=self._no_mask,
                past_key_values=cache.cache,
                use_cache=True,
                feed=feed,
            )
        hidden: torch.Tensor = found.last_hidden_state[0]
        return hidden

    @property
    def _no_mask(self) -> torch.Tensor:
        """An empty mask of four axes keeps transformers from making others."""
        return torch.empty(1, 1, 1, 0, dtype=torch.bool, device=self.device)

    def logits(self, hidden: torch.Tensor, head: torch.nn.Module | None = None) -> torch.Tensor:
        """Logits `[..., V]` of hidden states `[..., H]`; with `head` in the place of the model's own."""
        logits: torch.Tensor = (head or self.model.get_output_embeddings())(hidden)
        # Few architectures change them after the head; `load_model` holds what it loads to this list.
        config = self.model.config.get_text_config()
        for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
            if (factor := getattr(config, name, None)) is not None:
                logits = logits * factor
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
            logits = (logits / cap).tanh() * cap
        return logits

    def save(self, directory: Path) -> None:
        """Write a plain transformers model: `AutoModelForCausalLM` and `AutoTokenizer` load it.

        One with adapters is written with them merged into its weights, and they by themselves in `adapter`.
        """
        if adapted(self.model):
            save_merged(self.model, directory)
        else:
            self.model.save_pretrained(directory, safe_serialization=True)
        self.tokenizer.save_pretrained(directory)


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights. `context` in tokens; None if the model names no limit."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    context: int | None


def read_outline(ref: str, trust_remote_code: bool = False) -> Outline:
    """The outline of a built-in model, a local directory or a hub id.

    Raises:
        UserError: nothing there, not a model's settings, or no tokenizer.
    """
    source = resolve_model(ref)
    with _explained(ref, "its config.json cannot be used", "wanted what save_pretrained writes"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code).get_text_config()
    advice = (
        "wanted tokenizer.json and tokenizer_config.json beside the weights, as tokenizer.save_pretrained writes them"
    )
    with _explained(ref, "its tokenizer cannot be loaded", advice):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        # Without files some tokenizer classes are made empty, and nobody says so.
        if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
            raise ValueError("it has no tokens")
    context = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond this, all of a sequence's tokens get other positions; those that are in a cache would keep theirs.
        context = rope.get("original_max_position_embeddings", context)
    return Outline(tokenizer, int(config.vocab_size), context)


def load_model(
    ref: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    processes: int = 1,
) -> LanguageModel:
    """Load a built-in model, a local directory or a hub id, in evaluation mode. `processes` share this machine's cores.

    Raises:
        UserError: nothing there, no tokenizer, not a causal language model, or an architecture whose logits are not its
            output head applied to its last hidden state.
    """
    tokenizer = read_outline(ref, trust_remote_code).tokenizer
    with _explained(
        ref, "its weights cannot be loaded", "wanted a causal language model in *.safetensors files, whole"
    ):
        model = AutoModelForCausalLM.from_pretrained(
            resolve_model(ref), dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        # PyTorch's kernel knows no caps, and transformers before 5.21 takes it all the same.
        model.set_attn_implementation("eager")
    torch.nn.Module.to(model, device)
    model.eval()
    loaded = LanguageModel(model, tokenizer, ref)
    if loaded.device.type == "cpu":
        use_threads(loaded.parameters, processes)
    _check_split(loaded)
    return loaded


@contextmanager
def _explained(ref: str, what: str, wanted: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0].rstrip(" :.") if str(error).strip() else type(error).__name__
        if not Path(resolve_model(ref)).exists():
            what = f"there is no such directory, and as a hub id {what}"
        raise UserError(f"model {ref!r}: {what} ({first}); {wanted}") from error


@torch.inference_mode()
def _check_split(lm: LanguageModel) -> None:
    """Some architectures change their logits after the head in ways of their own, or have no head; refuse them by name.

    Raises:
        UserError: one of these.
    """
    ids = torch.arange(8, device=lm.device).remainder(lm.vocab_size)[None]
    whole = lm.model(input_ids=ids, use_cache=False).logits
    try:
        parts = lm.logits(lm.hidden(ids))
        same = parts.shape == whole.shape and torch.allclose(whole.float(), parts.float(), atol=1e-3, rtol=1e-3)
    except (AttributeError, TypeError, RuntimeError):
        same = False
    if not same:
        raise UserError(
            f"model {lm.ref!r} ({type(lm.model).__name__}) does not get its logits from its last hidden states by its "
            "output head and a change that is known here; wanted an architecture of docs/models.md"
        )
