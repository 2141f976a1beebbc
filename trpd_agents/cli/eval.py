"""`trpd eval`: how often an agent succeeds, with an interval, and whether it does better than another one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trpd_agents.cli.arguments import Env, EnvArg, MaxNewTokens, MaxTurns, Seed, env_spec
from trpd_agents.errors import UserError

if TYPE_CHECKING:
    from trpd_agents.distributed import World
    from trpd_agents.evaluation import Evaluation
    from trpd_agents.textenv import EnvSpec


def evaluate_command(
    model: Annotated[
        str,
        typer.Option(
            help="Directory of a model, hub id or builtin:NAME; with --endpoint, what the server calls it.",
            metavar="MODEL",
        ),
    ],
    env: Env,
    env_arg: EnvArg = None,
    episodes: Annotated[int, typer.Option("-n", "--episodes", min=1, help="Environment seeds to play.")] = 256,
    repeats: Annotated[
        int, typer.Option("-r", "--repeats", min=1, help="Episodes per seed; above 1, pass@k is printed too.")
    ] = 1,
    compare: Annotated[
        str | None, typer.Option(help="Another model, played on the same seeds.", metavar="MODEL", show_default=False)
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all results to this file.")] = None,
    seed: Seed = 1_000_000,
    max_turns: MaxTurns = None,
    max_new_tokens: MaxNewTokens = 32,
    ranks: Annotated[int, typer.Option(min=1, help="Processes to share the episodes.")] = 1,
    workers: Annotated[
        str,
        typer.Option(help="Processes for the environment; 0: in this one. auto: unless it declares that.", metavar="N"),
    ] = "auto",
    endpoint: Annotated[
        str | None,
        typer.Option(help="Play --model behind an OpenAI-compatible server, not here.", metavar="URL"),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the server's key.", metavar="NAME")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Episodes at once behind --endpoint.")] = 16,
) -> None:
    """Play held-out episodes and print the success rate with its 95 % interval.

    Examples:

    - `trpd eval --model MODEL --env Courier-v0 --env-arg rooms=5 -n 64`
    - `trpd eval --model MODEL --compare builtin:tiny --env Courier-v0` plays the same seeds with both models and prints
      the difference.
    - `trpd eval --model MODEL --env textarena/FrozenLake-v0 -r 4 --json result.json` adds pass@4.
    - `trpd eval --endpoint http://127.0.0.1:8000/v1 --model NAME --env Courier-v0 --max-new-tokens 256` plays a model
      behind a server, by its name there.
    """
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise UserError(f"--json {json_file}: a file in an existing directory wanted")
    if endpoint is None and api_key_env is not None:
        raise UserError(f"--api-key-env {api_key_env} is for a server; name one with --endpoint URL")
    if endpoint is not None and ranks > 1:
        raise UserError(f"--ranks {ranks}: a server is asked by one process; set --parallel instead")
    if not workers.isdecimal() and workers != "auto":
        raise UserError(f"--workers {workers}: a number of processes wanted, or auto")
    if endpoint is not None and workers != "auto":
        raise UserError(f"--workers {workers}: with --endpoint the environment is played in this process")
    if compare == model and endpoint is None:
        raise UserError(f"--compare {compare} is the model itself; name another one, or leave it out")
    spec = env_spec(env, env_arg)
    options = {
        "episodes": episodes,
        "repeats": repeats,
        "seed": seed,
        "max_turns": max_turns,
        "max_new_tokens": max_new_tokens,
    }
    from trpd_agents.models import resolve_model
    from trpd_agents.textenv import check_environment

    for name in filter(None, (None if endpoint else model, compare)):
        resolve_model(name)  # a second model that is not there is found before the first one plays
    check_environment(spec, max_turns=max_turns)
    results: dict[str, Any] = {"model": model, "env": spec.id, "env_kwargs": spec.kwargs, **options}
    played, local = {}, [model]
    first = model
    if endpoint is not None:
        first, local = f"{model} at {endpoint}", []
        results["endpoint"] = endpoint
        played[first] = _play_behind(endpoint, model, spec, options, api_key_env, parallel)
    for name in [*local, *([compare] if compare else [])]:
        here = {**options, "workers": workers if workers == "auto" else int(workers)}
        played[name] = _play_on_ranks(ranks, {"model": name, "env": [spec.id, spec.kwargs], "options": here})
    results |= _result(first, played[first])
    _show_rates(played)
    if endpoint is not None:
        _show_faults(played[first], max_new_tokens)
    if compare is not None:
        results["compare"] = {"model": compare, **_result(compare, played[compare])}
        results["paired_difference"] = _show_difference(first, compare, played)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _play_behind(
    url: str, model: str, spec: EnvSpec, options: dict[str, Any], key_env: str | None, parallel: int
) -> Evaluation:
    from trpd_agents.config.server import checked_url
    from trpd_agents.evaluation.endpoint import evaluate_endpoint
    from trpd_agents.progress import Progress
    from trpd_agents.teacher.http import Endpoint

    try:
        url = checked_url(url)
    except ValueError as error:
        raise UserError(f"--endpoint: {error}") from None
    progress = Progress()
    server = Endpoint(url, max_parallel=parallel, key_env=key_env, say=progress.say)
    with progress.phase(f"evaluate {model}", options["episodes"] * options["repeats"]) as shown:
        finished = itertools.count(1)
        return evaluate_endpoint(server, model, spec, **options, on_finish=lambda _: shown.update(next(finished)))


def _play_on_ranks(ranks: int, work: dict[str, Any]) -> Evaluation:
    from trpd_agents.distributed import launch

    return launch(ranks, "trpd_agents.cli.eval:play", work, lambda world: play(world, work))


def play(world: World, work: dict[str, Any]) -> Evaluation:
    """One rank's share of an evaluation. `work` is what `--ranks` sends to the other processes."""
    from trpd_agents.evaluation import evaluate
    from trpd_agents.progress import Progress
    from trpd_agents.textenv import EnvSpec

    share = len(world.shard(range(work["options"]["episodes"] * work["options"]["repeats"])))
    progress = Progress(quiet=world.rank > 0)
    with progress.phase(f"evaluate {work['model']}", share) as shown:
        finished = itertools.count(1)
        return evaluate(
            work["model"],
            EnvSpec(*work["env"]),
            **work["options"],
            world=world,
            on_finish=lambda _: shown.update(next(finished)),
            say=progress.say,
        )


def _result(name: str, evaluation: Evaluation) -> dict[str, Any]:
    if not evaluation.episodes:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in evaluation.errors.items())
        raise UserError(f"{name}: no episode could be scored, the environment failed in all of them ({kinds})")
    return {**evaluation.summary(), "outcomes": evaluation.outcomes}


def _show_rates(played: dict[str, Evaluation]) -> None:
    from trpd_agents.cli.show import interval, show_table

    rows = []
    for name, evaluation in played.items():
        summary = evaluation.summary()
        pass_at = {key: f"{value:.3f}" for key, value in summary.items() if key.startswith("pass@")}
        rows.append(
            {
                "model": name,
                "success rate [95 %]": interval(*evaluation.success_rate),
                **pass_at,
                **({} if evaluation.draws is None else {"draws": str(evaluation.draws)}),
                "turns": f"{evaluation.mean_turns:.1f}",
                "episodes": str(evaluation.episodes),
                "environment failures": str(sum(evaluation.errors.values()) or "-"),
            }
        )
    show_table(rows)


def _show_faults(evaluation: Evaluation, max_new_tokens: int) -> None:
    """What says little about the model. Chat models write more than small agents do: who is cut off all the time fails
    for that alone."""
    if evaluation.errors:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in evaluation.errors.items())
        print(f"left out, because they could not be played to their end: {kinds}")
    cut, answers = evaluation.stops.get("length", 0), sum(evaluation.stops.values())
    if cut * 20 > answers:
        print(f"{cut} of {answers} answers were cut off at --max-new-tokens {max_new_tokens}; raise it")


def _show_difference(model: str, other: str, played: dict[str, Evaluation]) -> dict[str, Any]:
    from trpd_agents.cli.show import interval
    from trpd_agents.evaluation import compare

    try:
        change = compare(played[other].outcomes, played[model].outcomes)
    except ValueError as error:
        raise UserError(f"nothing to compare: {error}") from None
    verdict = "" if change.low > 0 or change.high < 0 else "; the interval contains 0, so no difference is shown"
    print(f"{model} minus {other}, paired by seed: {interval(*change, sign='+')}{verdict}")
    return {"mean": change.mean, "interval": [change.low, change.high]}
