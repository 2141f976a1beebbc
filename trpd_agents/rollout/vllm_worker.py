"""What is added to vLLM's worker: taking new weights, whole, wherever the worker runs.

A server is started with `--worker-extension-cls trpd_agents.rollout.vllm_worker.TakesWeights`, and so has the methods
below as remote calls. Nothing here imports vLLM before it runs inside of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class TakesWeights:
    """Mixed into vLLM's worker class, whose attributes it uses."""

    model_runner: Any

    def take_weights(self, weights: Iterable[tuple[str, torch.Tensor]] | str) -> int:
        """Replace all weights, named as transformers names them, by `weights` or those in a directory of safetensors.

        Returns how many parameters the model has.
        """
        if isinstance(weights, str):
            self.model_runner.reload_weights(weights_path=weights)
        else:
            self.model_runner.reload_weights(weights_iterator=iter(weights))
        model = self.model_runner.get_model()
        prepare_heads(model)
        return sum(1 for _ in model.parameters())


def prepare_heads(model: torch.nn.Module) -> None:
    """Make output heads compute with the weights they have now.

    On a CPU a head multiplies by a packed copy of its weights. A head that is tied to the input embeddings gets no
    weights of its own when they are replaced, so nobody packs it anew, and it would go on with the old ones.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
