"""Run the quickstart over seeds and methods, and print what came out and where the time went.

    python benchmarks/quickstart.py --seeds 0 1 2 --presets trajectory opd --out benchmarks/results

One run after another, each with the recipe's own number of processes, so that times are those of the command itself.
Every run of a seed starts from the same teacher and the same student (they come from the cache after the first).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import trpd_agents
from trpd_agents.config import load_config

RECIPE = Path(__file__).parent.parent / "configs" / "quickstart.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=["trajectory", "opd"])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/benchmark-quickstart"), help="where the run directories go"
    )
    parser.add_argument("--out", type=Path, help="also write the table and the raw figures into this directory")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings laid over the recipe")
    arguments = parser.parse_args()

    results: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for preset in arguments.presets:
            settings = [f"seed={seed}", f"credit.preset={preset}", *arguments.overrides]
            # A seed decides the teacher and the start too: they are as much a part of the result as the distillation.
            settings += [f"{who}.imitation.seed={seed}" for who in ("teacher", "student")]
            started = time.perf_counter()
            summary = trpd_agents.train(
                load_config(RECIPE, settings), run_dir=arguments.runs / f"{preset}-seed{seed}", quiet=True
            )
            wall = time.perf_counter() - started
            results.append({"preset": preset, "seed": seed, "wall_seconds": wall, **summary})
            print(row(results[-1]), flush=True)
    table = report(results)
    print(f"\n{table}")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "quickstart.md").write_text(table, encoding="utf-8")
        (arguments.out / "quickstart.svg").write_text(picture(results), encoding="utf-8")
        (arguments.out / "quickstart.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def row(result: dict[str, Any]) -> str:
    """One run as a line of the table."""
    rates = [f"{result[who]['success_rate']:.3f}" for who in ("before", "after", "teacher")]
    change = result["paired_difference"]
    difference = f"{change['mean']:+.3f} [{change['interval'][0]:+.3f}, {change['interval'][1]:+.3f}]"
    return " | ".join(
        ["", result["preset"], str(result["seed"]), *rates, difference, f"{result['wall_seconds']:.0f}", ""]
    )


def report(results: list[dict[str, Any]]) -> str:
    """The table of all runs, and where the time of each went."""
    machine = (
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}"
    )
    episodes = results[0]["before"]["episodes"]
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} on {machine}; "
        f"{episodes} held-out episodes per figure, differences paired by episode, 95 % intervals.",
        "",
        "| preset | seed | before | after | teacher | after minus before | seconds |",
        "|---|---|---|---|---|---|---|",
        *(row(result).strip() for result in results),
        "",
        "| preset | seed | teacher s | student s | evaluate s | rollout s | score s | update s | rollout tokens/s "
        "| score tokens/s | update tokens/s | neither model nor environment, of the loop |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(phases(result) for result in results),
    ]
    return "\n".join(lines) + "\n"


def phases(result: dict[str, Any]) -> str:
    """Seconds and tokens per second by phase. Seconds are rank 0's; tokens are those of all ranks together."""
    seconds, tokens = result["seconds"], result["tokens"]
    spent = [f"{seconds[name]:.1f}" for name in ("teacher", "student", "evaluate", "rollout", "score", "update")]
    speed = [f"{tokens[name] / seconds[name]:,.0f}" for name in ("rollout", "score", "update")]
    loop = sum(seconds[name] for name in ("rollout", "score", "credit", "update", "write"))
    accounted = sum(seconds[name] for name in ("rollout_generate", "rollout_environment", "score", "update"))
    return (
        "| " + " | ".join([result["preset"], str(result["seed"]), *spent, *speed, f"{1 - accounted / loop:.1%}"]) + " |"
    )


def picture(results: list[dict[str, Any]]) -> str:
    """Success rates as an SVG: a dot with its 95 % interval for each seed, one group of rows for each of who played."""
    first = {result["seed"]: result for result in results if result["preset"] == results[0]["preset"]}
    groups = {"student before": [r["before"] for r in first.values()]}
    for preset in dict.fromkeys(result["preset"] for result in results):
        groups[f"after, {preset}"] = [r["after"] for r in results if r["preset"] == preset]
    groups["teacher"] = [r["teacher"] for r in first.values()]

    def x(rate: float) -> float:
        return 150 + 420 * rate

    shapes, y = [], 34.0
    for tick in range(0, 101, 20):
        shapes.append(f'<line x1="{x(tick / 100)}" x2="{x(tick / 100)}" y1="20" y2="{{bottom}}" stroke="#ddd"/>')
        shapes.append(f'<text x="{x(tick / 100)}" y="14" text-anchor="middle">{tick} %</text>')
    for name, found in groups.items():
        shapes.append(f'<text x="140" y="{y + 6 * (len(found) - 1) + 4}" text-anchor="end">{name}</text>')
        colour = "#0a7d4f" if "after" in name else "#555"
        for entry in found:
            low, high = entry["interval"]
            shapes.append(
                f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
            )
            shapes.append(f'<circle cx="{x(entry["success_rate"]):.1f}" cy="{y}" r="4" fill="{colour}"/>')
            y += 12
        y += 14
    body = "\n".join(shapes).replace("{bottom}", f"{y - 12}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {y}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="600" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
