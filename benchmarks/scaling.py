"""What a token costs as episodes get longer, more of them play, the vocabulary grows, and the model grows.

    python benchmarks/scaling.py --out benchmarks/results/scaling.md
    python benchmarks/scaling.py --only turns --rounds 1

Each line is one training step of random models (`one_step.py`) in a process of its own, on one thread. Costs are
microseconds per token of a trajectory, so that a flat column is a cost that does not grow; `x` is the ratio to the
first line of its table.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from one_step import Cost, Setting, measure  # noqa: E402

BASE = Setting()
SIZES = {"tiny": 64, "3 M": 256, "13 M": 512, "50 M": 1024}  # hidden units


def sized(name: str, dtype: str = "float32") -> Setting:
    h = SIZES[name]
    return replace(BASE, hidden=h, heads=max(4, h // 32), intermediate=h * 8 // 3, turns=4, dtype=dtype)


SWEEPS: dict[str, list[tuple[str, Setting]]] = {
    "turns": [(str(n), replace(BASE, turns=n, episodes=8)) for n in (8, 16, 32, 64, 128)],
    "turns, window of 256": [(str(n), replace(BASE, turns=n, episodes=8, window=256)) for n in (8, 16, 32, 64, 128)],
    "episodes": [(str(n), replace(BASE, episodes=n, turns=2)) for n in (8, 32, 128, 512, 1024)],
    "vocabulary": [(f"{n:,}", replace(BASE, vocabulary=n, turns=2)) for n in (1_024, 8_192, 32_768, 151_936)],
    "model": [(name, sized(name)) for name in SIZES],
    "precision": [
        (f"{name}, {dtype}", sized(name, dtype)) for name in list(SIZES)[1:] for dtype in ("float32", "bfloat16")
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SWEEPS), nargs="+", default=list(SWEEPS), help="which tables")
    parser.add_argument("--rounds", type=int, default=3, help="measured steps a line, after one that warms up")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    parts = [
        f"Measured {time.strftime('%Y-%m-%d')} with `python {' '.join(sys.argv)}` on {machine(arguments.device)}; "
        f"medians of {arguments.rounds} steps. {BASE.words} words an observation, {BASE.new_tokens} tokens an action."
    ]
    for name in arguments.only:
        lines = [f"## {name}", "", heading(name)]
        first: Cost | None = None
        for label, setting in SWEEPS[name]:
            cost = measure(replace(setting, rounds=arguments.rounds, device=arguments.device))
            first = first or cost
            lines.append(row(label, cost, first))
            print(lines[-1], file=sys.stderr, flush=True)
        parts.append("\n".join(lines))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


def heading(name: str) -> str:
    columns = [name, "parameters", "tokens", "step s", "us/token", "x", "generate", "score", "update"]
    columns += ["neither model nor environment", "of peak: decode", "score", "update", "memory GiB"]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def row(label: str, cost: Cost, first: Cost) -> str:
    def each(seconds: float) -> float:
        return 1e6 * seconds / cost.trajectory_tokens

    cells = [label, f"{cost.parameters / 1e6:.1f} M", f"{cost.trajectory_tokens:,}", f"{cost.step:.2f}"]
    cells += [f"{each(cost.step):.0f}", f"{each(cost.step) / (1e6 * first.step / first.trajectory_tokens):.2f}"]
    cells += [f"{each(cost.seconds[phase]):.0f}" for phase in ("generate", "score", "update")]
    cells += [f"{cost.overhead:.1%}", *(f"{cost.use(phase):.0%}" for phase in ("generate", "score", "update"))]
    return f"| {' | '.join([*cells, f'{cost.memory / 2**30:.2f}'])} |"


def machine(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    kind = platform.processor() or platform.machine()
    return f"one core of {os.cpu_count()}, {kind}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
