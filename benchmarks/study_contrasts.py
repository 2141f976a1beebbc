"""Differences between any two methods of a study, paired by seed and episode; by environment and over groups of them.

    python benchmarks/study_contrasts.py runs/study/methods exact:opd trajectory:exact trajectory:opd \
        --group lasting=courier,gridlake,frozenlake --group controls=courier-open,guessnumber

A study's own tables compare every method with one baseline. Here `A:B` is A minus B. Over a group, a seed counts only
if both methods finished it in all of the group's environments, which then weigh alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trpd_agents.evaluation.statistics import bonferroni, difference_over_runs

Runs = dict[int, dict[int, list[bool]]]  # training seed -> held-out episode -> outcomes
BETWEEN_ENVIRONMENTS = 1 << 40  # keeps the episodes of different environments apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="directory of a study")
    parser.add_argument("contrasts", nargs="+", metavar="A:B", help="methods to compare, A minus B")
    parser.add_argument("--teacher", default="good-play")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=ENVIRONMENT,...")
    arguments = parser.parse_args()
    contrasts = [tuple(contrast.split(":")) for contrast in arguments.contrasts]
    if any(len(pair) != 2 for pair in contrasts):
        sys.exit(f"contrasts: found {' '.join(arguments.contrasts)}, wanted METHOD:METHOD")
    members = arguments.study / "members"
    if not members.is_dir():
        sys.exit(f"{arguments.study} holds no members; give the directory that `trpd study` wrote")
    groups = {folder.name: [folder.name] for folder in sorted(members.iterdir())}
    groups |= {name: listed.split(",") for name, _, listed in (group.partition("=") for group in arguments.group)}
    print("| environment | contrast | seeds | difference, 95 % | together |\n| --- | --- | --- | --- | --- |")
    level = bonferroni(0.95, len(contrasts))
    for name, environments in groups.items():
        for a, b in contrasts:
            first, second = (collect(members, environments, arguments.teacher, method) for method in (a, b))
            seeds = len(first.keys() & second.keys())
            if not seeds:
                print(f"| {name} | {a} - {b} | 0 | - | - |")
                continue
            plain, together = (difference_over_runs(second, first, confidence) for confidence in (0.95, level))
            ends = "one seed" if seeds == 1 else f"{plain.low:+.3f}, {plain.high:+.3f}"
            wide = "one seed" if seeds == 1 else f"{together.low:+.3f}, {together.high:+.3f}"
            print(f"| {name} | {a} - {b} | {seeds} | {plain.mean:+.3f} [{ends}] | [{wide}] |")


def collect(members: Path, environments: list[str], teacher: str, method: str) -> Runs:
    """Outcomes after training of the seeds that are finished in all `environments`, put together."""
    runs: list[Runs] = []
    for place, environment in enumerate(environments):
        found: Runs = {}
        for summary in (members / environment / teacher / method).glob("*/summary.json"):
            after = json.loads((summary.parent / "evaluations.json").read_text(encoding="utf-8"))["after"]
            shift = place * BETWEEN_ENVIRONMENTS
            found[int(summary.parent.name)] = {int(e) + shift: flags for e, flags in after["outcomes"].items()}
        runs.append(found)
    shared = set.intersection(*(set(found) for found in runs))
    return {seed: {e: flags for found in runs for e, flags in found[seed].items()} for seed in shared}


if __name__ == "__main__":
    main()
