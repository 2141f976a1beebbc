"""A training step on a GPU at 0.6 billion parameters: share of the matmul peak, decoding speed, memory.

    python benchmarks/gpu.py --out benchmarks/results/gpu.md

Random weights in the shape of a common 0.6 B model (hidden 1024, 28 layers, vocabulary 151,936) on the environment of
`talk.py`, in the precision that training takes on a GPU: float32 weights, scoring and update in bfloat16 over them, and
a copy in bfloat16 that plays. `one_step.py` says how phases are taken apart. The peak is that of a large square product
in the same run, not the data sheet's.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402
from one_step import Setting, measure  # noqa: E402

BASE = Setting(
    hidden=1024,
    layers=28,
    heads=16,
    intermediate=3072,
    vocabulary=151_936,
    device="cuda",
    dtype="bfloat16",
    token_budget=32_768,
)
SETTINGS = {
    "256 conversations, 4 turns": replace(BASE, episodes=256, turns=4, new_tokens=32, words=32),
    "256 conversations, 4 turns, CUDA graphs": replace(
        BASE, episodes=256, turns=4, new_tokens=32, words=32, cuda_graphs=True
    ),
    "256 conversations, 16 turns": replace(BASE, episodes=256, turns=16, new_tokens=32, words=32),
    "64 conversations, 16 turns": replace(BASE, episodes=64, turns=16, new_tokens=32, words=32),
}
AIMS = "Aims on an H200: update at least 45 % of the peak, scoring 60 %, decoding 256 conversations 20,000 tokens/s."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is visible to torch here; this benchmark is about one")
    heading = ["setting", "tokens", "step s", "decode tokens/s", "decode of peak", "score tokens/s", "score of peak"]
    heading += ["update tokens/s", "update of peak", "peak TFLOP/s", "neither model nor environment", "memory GiB"]
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} with `python {' '.join(sys.argv)}` on {torch.cuda.get_device_name()}, "
        f"torch {torch.__version__}. {AIMS}",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
    ]
    for name, setting in SETTINGS.items():
        cost = measure(replace(setting, rounds=arguments.rounds))
        speed = {phase: cost.tokens[phase] / cost.seconds[phase] for phase in ("generate", "score", "update")}
        cells = [name, f"{cost.trajectory_tokens:,}", f"{cost.step:.2f}"]
        for phase in ("generate", "score", "update"):
            cells += [f"{speed[phase]:,.0f}", f"{cost.use(phase):.0%}"]
        cells += [f"{cost.peak / 1e12:.0f}", f"{cost.overhead:.1%}", f"{cost.memory / 2**30:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
