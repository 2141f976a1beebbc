"""Where the time of a recipe's training steps goes, as the loop itself accounts for it.

    python benchmarks/step.py --steps 12
    python benchmarks/step.py --config configs/quickstart.yaml --steps 12 learner.device=cuda learner.dtype=bfloat16
    python benchmarks/step.py --variant training.group_size=1 --variant training.group_size=8
    python benchmarks/step.py --untrained 256 --variant rollout.engine=transformers --variant rollout.engine=vllm

Every variant trains in a process of its own from the same cached starts, without evaluations. Variants alternate over
`--rounds`, and each is reported by its fastest round, so that a busy machine disturbs them alike.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
PHASES = ("rollout", "score", "credit", "update", "write")

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--variant", action="append", default=[], metavar="KEY=VALUE,...", help="settings to compare; repeat it"
    )
    parser.add_argument(
        "--untrained",
        type=int,
        metavar="HIDDEN",
        help="untrained models of 4 layers and so many hidden units (256: 3.7 M parameters) in place of the recipe's; "
        "they hardly ever end an action, so all engines have equally many tokens to sample",
    )
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings for all variants")
    arguments = parser.parse_args()
    common = [f"training.steps={arguments.steps}", "training.environment_steps=null", "learner.warmup_steps=0"]
    common += ["training.checkpoint_every=1000000", "training.save_trajectories_every=0"]
    common += ["evaluation.before=false", "evaluation.teacher=false", "evaluation.episodes=2", *arguments.overrides]
    variants = {text or "as in the recipe": text.split(",") if text else [] for text in arguments.variant or [""]}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.untrained:
            with spawn.Pool(1) as pool:
                common += pool.apply(make_untrained, (arguments.untrained, Path(folder)))
        for number in range(arguments.rounds):
            for name, settings in variants.items():
                with spawn.Pool(1) as pool:
                    runs[name].append(pool.apply(run, (arguments.config, [*common, *settings])))
                print(f"round {number + 1}, {name}: {loop(runs[name][-1]):.2f} s", flush=True)
    table = report(arguments, runs)
    print(f"\n{table}")
    if arguments.out is not None:
        arguments.out.write_text(table, encoding="utf-8")


def make_untrained(hidden: int, folder: Path) -> list[str]:
    """Write a student and a teacher into `folder`; the settings that take them."""
    from one_step import Setting, build

    setting = Setting(hidden=hidden, heads=max(4, hidden // 32), intermediate=hidden * 8 // 3)
    for seed, name in enumerate(("student", "teacher")):
        build(setting, seed).save(folder / name)
    return [f"{name}.{key}" for name in ("student", "teacher") for key in (f"model={folder / name}", "imitation=null")]


def run(config: Path, settings: list[str]) -> dict[str, Any]:
    """Train, and return the summary with the largest resident set of this process in bytes, or of its GPU's memory."""
    import torch

    import trpd_agents
    from trpd_agents.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        summary = trpd_agents.train(load_config(config, settings), run_dir=Path(folder) / "run", quiet=True)
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    memory = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**summary, "memory": memory}


def loop(summary: dict[str, Any]) -> float:
    return sum(summary["seconds"][phase] for phase in PHASES)


def report(arguments: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> str:
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    heading = ["variant", "s a step", *PHASES, "rollout tokens/s", "score tokens/s", "update tokens/s"]
    heading += ["neither model nor environment", "memory GiB"]
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} with `python {' '.join(sys.argv)}` on {machine}: {arguments.steps} "
        f"steps, the fastest of {arguments.rounds} rounds; seconds a step of rank 0, tokens of all ranks.",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
    ]
    for name, found in runs.items():
        best = min(found, key=loop)
        seconds, tokens = best["seconds"], best["tokens"]
        accounted = sum(seconds[phase] for phase in ("rollout_generate", "rollout_environment", "score", "update"))
        cells = [name, f"{loop(best) / arguments.steps:.2f}"]
        cells += [f"{seconds[phase] / arguments.steps:.3f}" for phase in PHASES]
        cells += [f"{tokens[phase] / seconds[phase]:,.0f}" for phase in ("rollout", "score", "update")]
        cells += [f"{1 - accounted / loop(best):.1%}", f"{best['memory'] / 2**30:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
