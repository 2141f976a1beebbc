"""The learner: turns weights on tokens into a step of the student. It knows three loss streams and no method.

Invariant: the step depends on the global batch alone, not on padding, micro-batches or the number of ranks, because
every stream is a sum over tokens divided by a count over the whole global batch. Tokens whose weights are all zero are
not even encoded where that is possible: a trajectory is cut after its last weighted token, which a causal model cannot
notice.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trpd_agents.batching import pick_token_budget, position_chunk
from trpd_agents.config import LearnerConfig
from trpd_agents.credit import Credit, CreditConfig
from trpd_agents.distributed import World
from trpd_agents.errors import RunError, UserError
from trpd_agents.learner.columns import gather_columns
from trpd_agents.learner.normalisers import Normalisers
from trpd_agents.learner.schedule import schedule_factor
from trpd_agents.learner.streams import stream_losses
from trpd_agents.memory import within_memory
from trpd_agents.models import LanguageModel, pick_autocast
from trpd_agents.teacher import Teacher
from trpd_agents.trajectory import Trajectory


class Learner:
    """AdamW on `lm`, updated in place.

    Args:
        world: this process's place among the data-parallel ranks; gradients are summed over them.
    """

    def __init__(self, lm: LanguageModel, config: LearnerConfig, world: World | None = None):
        self.lm = lm
        self.config = config
        self.world = world or World()
        self.parameters = [p for p in lm.model.parameters() if p.requires_grad]
        fused = lm.device.type in ("cuda", "cpu")
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
        )
        self.autocast = pick_autocast(config.dtype, lm.device)
        self.token_budget = pick_token_budget(config.token_budget, lm.device)
        if config.activation_checkpointing and not lm.model.supports_gradient_checkpointing:
            raise UserError(
                f"learner.activation_checkpointing: {type(lm.model).__name__} ({lm.ref!r}) cannot do it; set it to "
                "false"
            )
        self.steps = 0
        self.moving = False  # within an optimiser step: the weights belong to neither side of it

    def update(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        method: CreditConfig,
        teacher: Teacher | None = None,
        *,
        progress: float,
    ) -> dict[str, float]:
        """Learn from a batch: `epochs_per_batch` passes, each in `minibatches` optimiser steps.

        A mini-batch is normalised by its own tokens and turns on all ranks.

        Args:
            trajectories: this rank's share of the global batch.
            credit: their weights, row b for trajectory b.
            method: read for `estimator` and `forward_kl` only.
            teacher: supplies whole distributions for the exact estimators.
            progress: share of the whole run that was done before this batch, 0 to 1, for the learning rate's decay.

        Returns:
            Figures of the global batch, means over the optimiser steps: `loss`, `grad_norm`, `lr`, and per unit of
            weight, in nats, `reverse_kl`, `forward_kl` and `imitation_nll`; and `updated_tokens`, a sum.
        """
        parts = self._minibatches(trajectories) * self.config.epochs_per_batch
        done = [
            self._step(trajectories, credit, method, teacher, chosen, first=number == 0, progress=progress)
            for number, chosen in enumerate(parts)
        ]
        figures = {name: sum(step[name] for step in done) / len(done) for name in done[0]}
        return figures | {"updated_tokens": figures["updated_tokens"] * len(done)}

    def _minibatches(self, trajectories: Sequence[Trajectory]) -> list[list[int]]:
        """Indices of this rank's trajectories in each mini-batch.

        The global batch in the order of its ids is cut into consecutive blocks: which rank has a trajectory does not
        matter, and since ranks play every so-manieth episode each has its share of every block.
        """
        count = self.config.minibatches
        if count == 1:
            return [list(range(len(trajectories)))]
        ids = sorted(i for share in self.world.gather([t.id for t in trajectories]) for i in share)
        place = {i: n for n, i in enumerate(ids)}
        parts: list[list[int]] = [[] for _ in range(count)]
        for b, trajectory in enumerate(trajectories):
            parts[place[trajectory.id] * count // len(ids)].append(b)
        return parts

    def _step(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        method: CreditConfig,
        teacher: Teacher | None,
        chosen: Sequence[int],
        *,
        first: bool,
        progress: float,
    ) -> dict[str, float]:
        """One optimiser step on the trajectories at the indices `chosen`."""
        lr = self.config.lr * schedule_factor(self.config, self.steps, progress)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        normalisers = Normalisers.of(self.world, trajectories, credit, chosen)
        sums, self.token_budget = within_memory(
            lambda token_budget: self._accumulate(
                trajectories,
                credit,
                method,
                teacher,
                chosen,
                normalisers,
                token_budget,
                # The first step on fresh data is exactly on-policy; after it the ratio corrects for the policy's move.
                clip_ratio=None if first else self.config.clip_ratio,
            ),
            self.token_budget,
            phase="update",
            advice="" if self.config.activation_checkpointing else ", or set learner.activation_checkpointing=true",
            again=lambda: self.optimizer.zero_grad(set_to_none=True),
        )
        self.world.sum_gradients(self.parameters)
        names = ["updated_tokens", "loss", "policy_weight", "reverse_kl", "forward_kl_weight", "forward_kl"]
        names += ["imitated", "imitation_nll"]
        totals = dict(zip(names, self.world.sum(*(sums.get(n, 0.0) for n in names)), strict=True))
        weighted = totals["policy_weight"] + totals["forward_kl_weight"] + totals["imitated"]
        grad_norm = 0.0
        self.moving = True
        if weighted > 0:  # with nothing to learn from, Adam's momentum must not move the student either
            grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip))
            if not math.isfinite(grad_norm):
                raise RunError(f"the gradient's norm is {grad_norm} at optimiser step {self.steps}")
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.moving = False
        return {
            "loss": totals["loss"],
            "grad_norm": grad_norm,
            "lr": lr,
            "updated_tokens": totals["updated_tokens"],
            "reverse_kl": totals["reverse_kl"] / max(totals["policy_weight"], 1e-9),
            "forward_kl": totals["forward_kl"] / max(totals["forward_kl_weight"], 1e-9),
            "imitation_nll": totals["imitation_nll"] / max(totals["imitated"], 1.0),
        }

    def _accumulate(
        self,
        trajectories: Sequence[Trajectory],
        credit: Credit,
        method: CreditConfig,
        teacher: Teacher | None,
        chosen: Sequence[int],
        normalisers: Normalisers,
        token_budget: int,
        *,
        clip_ratio: float | None,
    ) -> dict[str, float]:
        """Add up the gradient of the trajectories at the indices `chosen`, and return the sums of the losses."""
        sums: dict[str, float] = {"updated_tokens": 0.0}
        active = (credit.policy_weight != 0) | (credit.forward_kl_weight != 0) | (credit.imitation_weight != 0)
        positions = [row.nonzero()[:, 0] for row in active.cpu()]
        # Nothing after the last weighted token is needed, and that one is only predicted.
        needed = [int(p.max()) if len(p) and b in chosen else 0 for b, p in enumerate(positions)]
        sequences = [t.tokens[:n] for t, n in zip(trajectories, needed, strict=True)]
        groups = self.lm.batches(sequences, token_budget)
        with self._training():
            for group in groups:
                with self._precision():
                    hidden, rows = self.lm.encode([sequences[b] for b in group])
                at = torch.cat([torch.from_numpy(row)[positions[b] - 1] for b, row in zip(group, rows, strict=True)])
                columns = gather_columns(trajectories, credit, method, normalisers, group, positions)
                totals = self._backward(
                    hidden.index_select(0, at.to(hidden.device)),
                    {name: value.to(self.lm.device) for name, value in columns.items()},
                    method,
                    teacher,
                    normaliser=normalisers.tokens,
                    guided_normaliser=normalisers.guided_tokens,
                    clip_ratio=clip_ratio,
                )
                sums["updated_tokens"] += sum(needed[b] for b in group)
                for name, value in totals.items():
                    sums[name] = sums.get(name, 0.0) + value
        return sums

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """The model in training mode, and back in evaluation mode whatever happens."""
        self.lm.model.train()
        if self.config.activation_checkpointing:
            # The public way would also put a hook on the embedding, one more at every step, that only reentrant
            # checkpointing needs.
            self.lm.model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=False))
        try:
            yield
        finally:
            if self.config.activation_checkpointing:
                self.lm.model._set_gradient_checkpointing(False)
            self.lm.model.eval()

    def _backward(
        self,
        hidden: torch.Tensor,
        columns: dict[str, torch.Tensor],
        method: CreditConfig,
        teacher: Teacher | None,
        **settings: Any,
    ) -> dict[str, float]:
        """Add the gradient of the losses at n positions, from their `hidden` states `[n, H]`, and return their sums.

        A chunk of positions goes through the output head, the losses and back before the next one does, so that one
        chunk's logits are all that is ever there, and none has to be computed twice.
        """

        def losses(part: torch.Tensor, named: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            taught = named.get("hidden")
            distribution = None
            if method.exact and taught is not None and teacher is not None:
                distribution = _fitted(teacher.log_distribution(taught), self.lm.vocab_size)
            arguments: dict[str, Any] = {name: value for name, value in named.items() if name != "hidden"}
            with self._precision():
                logits = self.lm.logits(part)
            return stream_losses(
                logits,
                **arguments,
                estimator=method.estimator,
                forward=method.forward_kl,
                teacher_logprobs=distribution,
                **settings,
            )

        chunk = position_chunk(self.lm.vocab_size)
        gradients: list[torch.Tensor] = []
        joined: dict[str, torch.Tensor] = {}
        for start in range(0, len(hidden), chunk):
            part = hidden[start : start + chunk].detach().requires_grad_()
            loss, totals = losses(part, {name: value[start : start + chunk] for name, value in columns.items()})
            loss.backward()
            assert part.grad is not None
            gradients.append(part.grad)
            for name, value in totals.items():
                joined[name] = joined.get(name, 0.0) + value
        hidden.backward(torch.cat(gradients))
        return {name: float(value) for name, value in joined.items()}

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.lm.device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that decides the next step."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps, "token_budget": self.token_budget}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])
        # Lower than the configured one if there was too little memory for that.
        self.token_budget = min(self.token_budget, int(state.get("token_budget", self.token_budget)))


def _fitted(logprobs: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """`[n, V_T]` cut or filled with -inf to `[n, vocab_size]`: models of one family pad their heads differently."""
    missing = vocab_size - logprobs.shape[1]
    return (
        torch.nn.functional.pad(logprobs, (0, missing), value=-torch.inf) if missing > 0 else logprobs[:, :vocab_size]
    )
