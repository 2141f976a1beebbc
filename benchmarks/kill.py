"""kill -9 at random moments, then resume: does the run end as if nothing had been?

    python benchmarks/kill.py --trials 50 --jobs 2 --out benchmarks/results/kill.md

Each trial draws a phase of the run (making models, rollout, scoring, credit, update, writing, checkpoint, evaluation),
one of the times the run is in it, and a delay within it; there the process gets SIGKILL. It is resumed, and every third
time killed and resumed once more. Then its metrics (but for seconds), evaluations, best checkpoint, stored episodes and
final weights are compared byte by byte with those of a run that nobody disturbed. A run here is small (0.1 M
parameters, 6 steps); half of the trials play ahead (`training.staleness`). Exit code 1 if any trial ends otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch

from trpd_agents.base_models.make import make_tokenizer
from trpd_agents.checkpoints import Checkpoints
from trpd_agents.config import parse_config
from trpd_agents.models import LanguageModel
from trpd_agents.stopwatch import Stopwatch
from trpd_agents.storage import read_trajectories
from trpd_agents.training import train

VARIANTS = {"in step": {}, "one step ahead": {"staleness": 1}}


def recipe(models: Path, variant: str) -> Any:
    training = {
        "steps": 6,
        "episodes_per_step": 8,
        "group_size": 2,
        "checkpoint_every": 2,
        "save_trajectories_every": 1,
    }
    return parse_config(
        {
            "env": {"id": "Courier-easy-v0"},
            "student": {"model": str(models / "student")},
            "teacher": {"model": str(models / "teacher")},
            "rollout": {"max_new_tokens": 12, "max_tokens": 1000},
            "credit": {"preset": "trajectory"},
            "learner": {"lr": 1e-3, "minibatches": 2, "device": "cpu"},
            "training": {**training, **VARIANTS[variant]},
            "evaluation": {"episodes": 8, "every": 2},
        }
    )


def make_models(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=2048,
        )
        LanguageModel(LlamaForCausalLM(config), tokenizer, name).save(folder / name)


# In the process that is killed


def run(models: Path, variant: str, path: Path, told: Connection) -> None:
    """Train, or go on, and tell each phase as it begins and ends."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- for the rest of this process
    original_call, original_save = Stopwatch.__call__, Checkpoints.save

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        told.send((name, True))
        yield
        told.send((name, False))

    @contextmanager
    def watched(self: Stopwatch, name: str) -> Iterator[None]:
        with phase(name), original_call(self, name):
            yield

    def saved(self: Checkpoints, *arguments: Any, **options: Any) -> None:
        with phase("checkpoint"):
            original_save(self, *arguments, **options)

    Stopwatch.__call__ = watched  # type: ignore[method-assign]
    Checkpoints.save = saved  # type: ignore[method-assign]
    config = recipe(models, variant)
    try:
        train(config, resume=path, quiet=True) if path.exists() else train(config, path, quiet=True)
    except BaseException:
        told.send((traceback.format_exc(), None))
        os._exit(1)
    told.close()
    os._exit(0)  # forked in a thread: what the parent's other threads would have cleaned up is not here


# In the process that kills


def follow(models: Path, variant: str, path: Path, kill: tuple[str, int, float] | None) -> tuple[list[Any], int | None]:
    """Let a run go to its end, or to the `kill`: a phase, which time in it, and so many seconds into it. Returns the
    phases with their seconds, and the exit code."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(models, variant, path, there))
    process.start()
    there.close()
    begun: dict[str, float] = {}
    seen: Counter[str] = Counter()
    phases: list[tuple[str, float]] = []
    try:
        while True:
            name, begins = here.recv()
            if begins is None:
                print(name, file=sys.stderr)
                continue
            if not begins:
                phases.append((name, time.perf_counter() - begun[name]))
                continue
            begun[name] = time.perf_counter()
            if kill is not None and (name, seen[name]) == kill[:2]:
                time.sleep(kill[2])
                process.kill()
                break
            seen[name] += 1
    except EOFError:
        pass
    process.join()
    return phases, process.exitcode


def outcome(path: Path) -> dict[str, str]:
    """Hashes of everything a run leaves that no clock decides."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in line.items() if not k.startswith(("seconds", "tokens_per_second"))} for line in lines]
    episodes = [
        (t.tokens.tolist(), t.logprobs.tolist(), t.success, None if t.scores is None else t.scores.lt.tolist())
        for file in sorted((path / "trajectories").glob("*.parquet"))
        for t in read_trajectories(file)
    ]
    parts = {
        "metrics": json.dumps(timeless).encode(),
        "episodes": repr(episodes).encode(),
        "evaluations": (path / "evaluations.json").read_bytes(),
        "best": (path / "checkpoints" / "best.json").read_bytes(),
        "weights": (path / "student" / "model.safetensors").read_bytes(),
    }
    return {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = Random(arguments.seed)
    results: dict[str, list[list[str]]] = {}
    kills = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder)
        wanted, phases = {}, {}
        for variant in VARIANTS:
            path = folder / f"undisturbed {variant}"
            phases[variant], code = follow(folder, variant, path, None)
            if code:
                sys.exit(f"the undisturbed run ended with exit code {code}")
            wanted[variant] = outcome(path)

        def draw(variant: str) -> tuple[str, int, float]:
            name = rng.choice(sorted({name for name, _ in phases[variant]}))
            spans = [seconds for phase, seconds in phases[variant] if phase == name]
            which = rng.randrange(len(spans))
            return name, which, rng.random() * spans[which]

        def trial(number: int, variant: str, plan: list[tuple[str, int, float]]) -> tuple[str, list[str], int]:
            path = folder / f"trial {number}"
            killed = 0
            for kill in plan:
                _, code = follow(folder, variant, path, kill)
                killed += code == -signal.SIGKILL
            if not (path / "summary.json").is_file():
                _, code = follow(folder, variant, path, None)
                if code:
                    return plan[0][0], [f"resuming ended with exit code {code}"], killed
            found = outcome(path)
            return plan[0][0], [part for part in found if found[part] != wanted[variant][part]], killed

        plans = []
        for number in range(arguments.trials):
            variant = list(VARIANTS)[number % len(VARIANTS)]
            plans.append((number, variant, [draw(variant) for _ in range(2 if number % 3 == 2 else 1)]))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for done, (phase, different, killed) in enumerate(pool.map(lambda plan: trial(*plan), plans), start=1):
                results.setdefault(phase, []).append(different)
                kills += killed
                state = "identical" if not different else f"DIFFERENT: {', '.join(different)}"
                print(f"{done}/{len(plans)}  killed in {phase}: {state}", file=sys.stderr, flush=True)
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} with `python {' '.join(sys.argv)}`, torch {torch.__version__}: "
        f"{kills} kills in {arguments.trials} runs.",
        "",
        "| killed first in | runs | ended as the undisturbed one |",
        "|---|---|---|",
    ]
    for phase, rows in sorted(results.items()):
        lines.append(f"| {phase} | {len(rows)} | {sum(not row for row in rows)} |")
    same = sum(not row for rows in results.values() for row in rows)
    lines.append(f"| all | {arguments.trials} | {same} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    if same < arguments.trials:
        sys.exit(1)


if __name__ == "__main__":
    main()
