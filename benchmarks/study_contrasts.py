"""Differences between any two methods of a study, paired by seed and episode; by environment and over groups of them.

    python benchmarks/study_contrasts.py runs/study/methods exact:opd trajectory:exact trajectory:opd \
        --group lasting=courier,gridlake,frozenlake --group controls=courier-open,guessnumber

A study's own tables compare every method with one baseline. Here `A:B` is A minus B, and `A` alone is its success.
Over a group, a seed counts only if every method named finished it in all of its environments, which then weigh alike.
`opd@5e-4` stands for `opd` at that learning rate, run as `opd` or as an entry of the study called `opd-lr...`; with
`opd@chosen` each seed has the rate with the best mean success on the other seeds, of those that were run on all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from trpd_agents.evaluation.statistics import Estimate, bonferroni, difference_over_runs, mean_over_runs

Runs = dict[int, dict[int, list[bool]]]  # training seed -> held-out episode -> outcomes
BETWEEN_ENVIRONMENTS = 1 << 40  # keeps the episodes of different environments apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="directory of a study")
    parser.add_argument("contrasts", nargs="+", metavar="A:B", help="methods to compare, A minus B; or one method")
    parser.add_argument("--teacher", default="good-play")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=ENVIRONMENT,...")
    arguments = parser.parse_args()
    contrasts = [tuple(contrast.split(":")) for contrast in arguments.contrasts]
    if any(len(methods) > 2 or "" in methods for methods in contrasts):
        sys.exit(f"contrasts: found {' '.join(arguments.contrasts)}, wanted METHOD:METHOD or METHOD")
    members = arguments.study / "members"
    if not members.is_dir():
        sys.exit(f"{arguments.study} holds no members; give the directory that `trpd study` wrote")
    groups = {folder.name: [folder.name] for folder in sorted(members.iterdir())}
    groups |= {name: listed.split(",") for name, _, listed in (group.partition("=") for group in arguments.group)}
    print("| environment | contrast | seeds | difference, 95 % | together |\n| --- | --- | --- | --- | --- |")
    level = bonferroni(0.95, max(1, sum(len(methods) == 2 for methods in contrasts)))
    for name, environments in groups.items():
        for methods in contrasts:
            runs = [collect(members, environments, arguments.teacher, method) for method in methods]
            seeds = len(set.intersection(*(set(found) for found in runs)))
            estimates = [estimate(runs, confidence) for confidence in (0.95, level)] if seeds else []
            plain, together = [shown(found, len(methods) == 2) for found in estimates] or ["-", "-"]
            wide = together.partition(" ")[2] if len(methods) == 2 else "-"
            print(f"| {name} | {' - '.join(methods)} | {seeds} | {plain} | {wide} |")


def estimate(runs: list[Runs], confidence: float) -> Estimate:
    """Of the first, or of the first minus the second."""
    return mean_over_runs(runs[0], confidence) if len(runs) == 1 else difference_over_runs(runs[1], runs[0], confidence)


def shown(found: Estimate, signed: bool) -> str:
    sign = "+" if signed else ""
    ends = "one seed" if math.isnan(found.low) else f"{found.low:{sign}.3f}, {found.high:{sign}.3f}"
    return f"{found.mean:{sign}.3f} [{ends}]"


def collect(members: Path, environments: list[str], teacher: str, method: str) -> Runs:
    """Outcomes after training of the seeds that are finished in all `environments`, put together."""
    method, _, rate = method.partition("@")
    runs: list[Runs] = []
    for place, environment in enumerate(environments):
        found = at_rate(by_rate(members / environment / teacher / method, bool(rate)), rate)
        shift = place * BETWEEN_ENVIRONMENTS
        runs.append({seed: {e + shift: flags for e, flags in outcomes.items()} for seed, outcomes in found.items()})
    shared = set.intersection(*(set(found) for found in runs))
    return {seed: {e: flags for found in runs for e, flags in found[seed].items()} for seed in shared}


def by_rate(folder: Path, namesakes: bool) -> dict[float, Runs]:
    """A method's finished runs by learning rate, with `namesakes` also those of entries called `METHOD-lr...`."""
    folders = [folder, *(folder.parent.glob(f"{folder.name}-lr*") if namesakes else [])]
    found: dict[float, Runs] = {}
    for member in (file for folder in folders for file in folder.glob("*/member.json")):
        rate = json.loads(member.read_text(encoding="utf-8"))["learning_rate"]
        after = json.loads((member.parent / "evaluations.json").read_text(encoding="utf-8"))["after"]
        outcomes = {int(e): flags for e, flags in after["outcomes"].items()}
        found.setdefault(rate, {})[int(member.parent.name)] = outcomes
    return found


def at_rate(found: dict[float, Runs], rate: str) -> Runs:
    """The runs at one rate, at any (""), or for each seed at the rate that is best on the others ("chosen")."""
    if rate not in ("", "chosen"):
        return found.get(float(rate), {})
    if rate == "":
        return {seed: outcomes for runs in found.values() for seed, outcomes in runs.items()}
    seeds = set().union(*found.values()) if found else set()
    whole = {lr: runs for lr, runs in sorted(found.items()) if set(runs) == seeds}
    if len(seeds) < 2 or len(whole) < 2:
        return {}
    success = {lr: {seed: mean_over_runs({seed: runs[seed]}).mean for seed in seeds} for lr, runs in whole.items()}
    return {
        seed: whole[max(whole, key=lambda lr: sum(success[lr][other] for other in seeds - {seed}))][seed]
        for seed in seeds
    }


if __name__ == "__main__":
    main()
