"""`trpd play`: a person or a model plays in the terminal, turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from trpd_agents.cli.arguments import EnvArg, MaxNewTokens, MaxTurns, env_spec
from trpd_agents.cli.check import EnvName
from trpd_agents.errors import EnvironmentFailure, RunError, UserError

if TYPE_CHECKING:
    from trpd_agents.cli.play_record import Action, Record
    from trpd_agents.textenv import EnvSpec, Step


class _Player(Protocol):
    def act(self, record: Record) -> Action | None: ...
    def finish(self, record: Record) -> None: ...


def play(
    env: EnvName,
    env_arg: EnvArg = None,
    episodes: Annotated[int, typer.Option("-n", "--episodes", min=1, help="Episodes, of one seed after another.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    expert: Annotated[
        bool, typer.Option("--expert", help="Always show what the environment's expert would do.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Watch a model: a directory, hub id or builtin:NAME.", metavar="MODEL", show_default=False),
    ] = None,
    step: Annotated[bool, typer.Option("--step", help="With --model: wait for Enter before each action.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Save the episodes: FILE.jsonl or FILE.parquet.", metavar="FILE")
    ] = None,
    max_turns: MaxTurns = None,
    max_new_tokens: MaxNewTokens = 32,
) -> None:
    """Play an environment, or watch a model play it.

    A line is an action, sent as it is. Lines that begin with a slash are commands: `/call go room=hall` calls a tool,
    `/expert` shows what the expert would do, `/legal` what would be accepted, `/help` lists all of them.

    Examples:

    - `trpd play Courier-v0 --env-arg rooms=3 --expert`
    - `trpd play my_env.py:MyEnv --seed 7 -n 3 --out played.parquet`
    - `trpd play Courier-v0 --model runs/first/student --step` watches a model, an action at each Enter.
    """
    if step and model is None:
        raise UserError("--step is for watching a model; name one with --model, or leave it out")
    spec = env_spec(env, env_arg)
    from trpd_agents.cli.play_record import require_writable, save

    if out is not None:
        require_writable(out)
    player = _player(spec, model, expert, max_turns, max_new_tokens)
    records: list[Record] = []
    failure: EnvironmentFailure | None = None
    try:
        for number in range(episodes):
            _episode(spec, seed + number, player, max_turns, records, expert=expert and model is not None, step=step)
    except EnvironmentFailure as found:
        failure = found
    except _stops():
        print("stopped")
    played = [record for record in records if record.turns]
    finished = [record.success for record in played if record.success is not None]
    if finished:
        print(f"{sum(finished)} of {len(finished)} episodes succeeded")
    if out is not None and played:
        save(out, played)
        print(f"{len(played)} episodes written to {out}")
    elif out is not None:
        print(f"nothing was played, so {out} was not written")
    if failure is not None:
        raise RunError(f"{failure.message}; `trpd check {env}` finds out more")


def _stops() -> tuple[type[BaseException], ...]:
    from trpd_agents.cli.play_person import Quit

    return Quit, KeyboardInterrupt


def _player(spec: EnvSpec, model: str | None, expert: bool, max_turns: int | None, max_new_tokens: int) -> _Player:
    from trpd_agents.textenv import make

    try:
        env = make(spec)  # a name that does not exist is found before a model is loaded
    except EnvironmentFailure as failure:
        raise RunError(failure.message) from failure
    has_expert, endless = env.has_expert, env.max_turns is None and max_turns is None
    seats = env.seats
    env.close()
    if expert and not has_expert:
        raise UserError(
            f"--expert: environment {spec.id!r} has none; leave it out, or give its class a method expert()"
        )
    if model is None:
        from trpd_agents.cli.play_person import PersonPlayer

        return PersonPlayer(expert)
    if seats > 1:
        raise UserError(f"--model: {spec.id!r} is played by {seats} players, and a model would see what the others see")
    if endless:
        raise UserError(f"environment {spec.id!r} has no turn limit, so a model could play for ever; set --max-turns")
    from trpd_agents.cli.play_model import ModelPlayer

    return ModelPlayer(model, max_new_tokens)


def _episode(
    spec: EnvSpec,
    seed: int,
    player: _Player,
    max_turns: int | None,
    records: list[Record],
    *,
    expert: bool,
    step: bool,
) -> None:
    """Play one episode; its record is among `records` from its beginning on, whatever happens."""
    from trpd_agents.cli.play_person import ask
    from trpd_agents.cli.play_record import Record
    from trpd_agents.cli.terminal import printable
    from trpd_agents.textenv import make

    env = make(spec)
    try:
        opening = env.reset(seed)
        record = Record(env, seed, opening, env.instructions, env.tools)
        record.error = {"kind": "interrupted", "message": "it was not played to its end"}
        records.append(record)
        _begin(record)
        while True:
            if expert:
                print(f"expert: {printable(env.expert() or 'knows nothing to do: the task is lost')}")
            if step:
                ask("Enter goes on ")
            action = player.act(record)
            if action is None:
                record.outcome = "max_tokens"
                break
            if action.author != "person":
                print(f"> {printable(action.text)}")
            observed = record.observation
            result = env.step(action.text)
            record.turns.append((observed, action, result))
            _show(result)
            if result.terminated or result.truncated:
                break
            if max_turns is not None and len(record.turns) >= max_turns:
                record.outcome = "max_turns"
                break
        record.error = None
        player.finish(record)
        _end(record)
    except EnvironmentFailure as failure:
        if records and records[-1].env is env:
            records[-1].error = {"kind": failure.kind, "message": failure.message}
        raise
    finally:
        env.close()


def _begin(record: Record) -> None:
    from trpd_agents.cli.play_person import say_tools
    from trpd_agents.cli.terminal import printable

    limit = f", at most {record.env.max_turns} turns" if record.env.max_turns is not None else ""
    print(f"--- {printable(record.env.spec.id)}, seed {record.seed}{limit} ---")
    if record.instructions:
        print(printable(record.instructions))
    if record.tools:
        say_tools(record)
    print(f"\n{printable(record.opening)}")


def _show(result: Step) -> None:
    from trpd_agents.cli.terminal import printable

    told = [] if result.ok else ["not accepted"]
    told += [f"reward {result.reward:g}"] if result.reward else []
    print(printable(result.observation) + (f"  ({', '.join(told)})" if told else ""))


def _end(record: Record) -> None:
    verdict = "success" if record.success else "no success"
    why = {"max_tokens": ", the model's context is full", "max_turns": ", --max-turns is reached"}
    turns = len(record.turns)
    print(
        f"--- {verdict} after {turns} turn{'s' if turns != 1 else ''}, reward {record.reward:g}"
        f"{why.get(record.outcome or '', '')} ---"
    )
