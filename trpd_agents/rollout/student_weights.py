"""The student's weights on their way into an engine that has weights of its own.

Such an engine may be another program, which knows nothing of adapters, or compute in another precision. What it gets
are the plain weights that compute what the student does. Invariant: the student itself is never changed, and a push is
always of all weights; a copy in this process takes them in place, so that what holds on to its tensors goes on with the
new values.
"""

from __future__ import annotations

import copy
import dataclasses

import torch

from trpd_agents.lora import adapted, plain_state, strip_adapters
from trpd_agents.models import LanguageModel
from trpd_agents.rollout.engine import Engine


def plain_copy(lm: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A model without adapters that computes what `lm` does, with weights of `dtype`; its buffers stay as they are.

    Buffers are what a model computes positions with, for which bfloat16 is too coarse. What was found out about `lm` by
    comparing numbers holds for the copy, too, whose own would be blurred by rounding.
    """
    packs, caches = lm.packs, lm.caches  # before the copy is made: they settle how its attention is computed
    taken = {
        id(p): torch.nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=False) for p in lm.model.parameters()
    }
    model = copy.deepcopy(lm.model, taken)  # a parameter that is in the memo is not copied but replaced
    if adapted(model):
        strip_adapters(model)
        model.load_state_dict(plain_state(lm.model))
    copied = dataclasses.replace(lm, model=model)
    copied.packs, copied.caches = packs, caches
    if not caches:
        copied.remembers = lm.remembers
    return copied


def push_weights(engine: Engine, lm: LanguageModel, version: int) -> None:
    """Let `engine` play with the weights that `lm` has now, which are those after `version` optimiser steps.

    Merging adapters takes the memory of the adapted layers once more while it lasts.

    Raises:
        RunError: the engine does not take them.
    """
    own = getattr(engine, "lm", None)
    with_adapters = own is not None and adapted(own.model)
    engine.load_weights(lm.model.state_dict() if with_adapters else plain_state(lm.model), version)
