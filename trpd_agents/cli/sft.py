"""`trpd sft`: make a model by imitating an expert: a teacher to distil from, or a student's first steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trpd_agents.cli.arguments import Env, EnvArg, MaxNewTokens, MaxTurns, env_spec, refuse_existing
from trpd_agents.errors import UserError


def sft(
    env: Env,
    out: Annotated[Path, typer.Option(help="Directory for the trained model.")],
    expert: Annotated[bool, typer.Option("--expert", help="Imitate the environment's scripted expert.")] = False,
    teacher: Annotated[
        str | None,
        typer.Option(help="Imitate this model's successful episodes instead.", metavar="MODEL", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Where to start: directory, hub id or builtin:NAME.", metavar="MODEL")
    ] = "builtin:tiny",
    demonstrations: Annotated[int, typer.Option(min=1, help="Episodes to play for imitation.")] = 1_000,
    updates: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Episodes per optimiser step.")] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of episodes and batches.")] = 0,
    env_arg: EnvArg = None,
    max_turns: MaxTurns = None,
    max_new_tokens: MaxNewTokens = 32,
) -> None:
    """Train a model by imitation.

    Examples:

    - `trpd sft --env Courier-v0 --expert --out models/teacher`
    - `trpd sft --env Courier-v0 --teacher models/teacher --demonstrations 200 --out models/student`
    """
    if expert == (teacher is not None):
        raise UserError("whom to imitate? give either --expert or --teacher MODEL")
    if not 0 < lr < float("inf"):
        raise UserError(f"--lr {lr}: a positive learning rate wanted")
    refuse_existing(out, "--out", "name another directory")
    spec = env_spec(env, env_arg)
    from trpd_agents.config import ImitationConfig, LearnerConfig
    from trpd_agents.evaluation import turn_limit
    from trpd_agents.imitation import gather_demonstrations, imitate, save_atomically, teacher_demonstrations
    from trpd_agents.models import load_model, pick_device, resolve_model
    from trpd_agents.progress import Progress
    from trpd_agents.rollout.dialogues import Dialogues
    from trpd_agents.textenv import check_environment

    for name in filter(None, (model, teacher)):
        resolve_model(name)  # before the environment is played
    check_environment(spec, max_turns=max_turns)
    limit = turn_limit(spec, max_turns)
    settings = ImitationConfig(demonstrations=demonstrations, updates=updates, batch=batch, lr=lr, seed=seed)
    lm = load_model(model, device=pick_device())
    if teacher is None:
        episodes = gather_demonstrations(spec, Dialogues(lm.tokenizer), settings, max_turns=limit)
    else:
        episodes = teacher_demonstrations(teacher, lm, spec, settings, max_turns=limit, max_new_tokens=max_new_tokens)
    print(f"{len(episodes)} successful episodes of {demonstrations}", flush=True)
    with Progress().phase("imitate", updates) as shown:
        imitate(
            lm,
            episodes,
            settings,
            learner=LearnerConfig(lr=lr),
            progress=lambda done, total, figures: shown.update(done, figures),
        )
    save_atomically(lm, out)
    print(f"model written to {out}")
