"""Does the environment play as it should, and does it say who succeeded?"""

from __future__ import annotations

from contextlib import closing

from trpd_agents.config import RunConfig
from trpd_agents.doctor.finding import Check, Finding, error, ok, warning
from trpd_agents.errors import UserError
from trpd_agents.textenv import AgentEnv, EnvSpec, check_environment, make
from trpd_agents.textenv.mixture import members

SEEDS = 3
_MOST_TURNS = 200  # of an episode that its expert plays here


def _check(config: RunConfig) -> Finding:
    spec = EnvSpec(config.env.id, config.env.kwargs)
    try:
        check_environment(spec, seeds=SEEDS, max_turns=config.env.max_turns)
    except UserError as told:
        return error(str(told), f"`trpd check {spec.id}` tries everything and says why it matters.")
    experts = []
    for member in members(spec):
        with closing(make(member.spec)) as env:
            if not env.has_expert or env.seats > 1:
                continue
            solved = sum(_solves(env, config.evaluation.seed + i, config.env.max_turns) for i in range(SEEDS))
        experts.append(f"the expert of {member.spec.id} solved {solved} of {SEEDS}")
        if not solved:
            return warning(
                f"{SEEDS} short episodes as they should be; {experts[-1]}",
                "A task that its own solver does not solve teaches nobody: raise env.max_turns, or see `trpd check`.",
            )
    solvable = ", ".join(experts) or "it has no expert to say whether it can be solved"
    return ok(f"{SEEDS} short episodes as they should be; {solvable}. `trpd check {spec.id}` tries everything")


def _solves(env: AgentEnv, seed: int, max_turns: int | None) -> bool:
    env.reset(seed)
    for _ in range(min(max_turns or env.max_turns or _MOST_TURNS, _MOST_TURNS)):
        action = env.expert()
        if action is None:
            return False
        step = env.step(action)
        if step.terminated or step.truncated:
            return bool(step.success)
    return False


ENVIRONMENT = Check("environment", "episodes that end, say whether they succeeded, and can be solved", _check)
