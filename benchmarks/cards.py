"""How lasting mistakes are: the recoverability cards of all bundled environments, or of TextArena's with an expert.

    python benchmarks/cards.py --out benchmarks/results/cards.md
    python benchmarks/cards.py --textarena --out benchmarks/results/cards_textarena.md
    python benchmarks/cards.py --env Courier-v0 --env textarena/FrozenLake-v0 --seeds 1000

Success on `--seeds` seeds with 95 % intervals (Wilson): legal actions at random, the expert, and the expert after one,
two and four random legal actions. Mean turns are those of the expert from the start.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from trpd_agents.errors import UserError
from trpd_agents.evaluation.card import PLAYS, Card, measure_card
from trpd_agents.progress import Progress
from trpd_agents.textenv import list_envs
from trpd_agents.textenv.resolve import bundled_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--textarena", action="store_true", help="TextArena's games that have an expert; takes long")
    parser.add_argument("--env", action="append", help="only this one; repeatable")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    games = [entry.id for entry in list_envs() if entry.expert and re.fullmatch(r"textarena/\w+-v0", entry.id)]
    bundled = [env_id.removeprefix("trpd/") for env_id in bundled_ids()]
    ids = options.env or (games if options.textarena else bundled)
    progress = Progress()
    heads = ["environment", *PLAYS, "turns"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    remarks = []
    for env_id in ids:
        try:
            card = measure_card(env_id, options.seeds, progress=progress)
        except UserError as error:  # a game may need data that are not here
            remarks.append(f"- {error}")
            continue
        lines.append(row(card))
        remarks += [f"- {env_id}: {note}" for note in card.notes]
        remarks += [f"- {env_id}: {count} episodes in no rate ({kind})" for kind, count in card.faults.items()]
    command = f"python benchmarks/cards.py --seeds {options.seeds}{' --textarena' * options.textarena}"
    command += "".join(f" --env {env_id}" for env_id in options.env or ())
    text = "\n".join([*lines, "", f"`{command}`: {options.seeds} seeds from 0 on; 95 % intervals.", *remarks]) + "\n"
    print("\n" + text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def row(card: Card) -> str:
    """One line of the table."""
    cells = [card.spec.id]
    for play in PLAYS:
        rate = card.rates.get(play)
        if rate is None or not rate.episodes:
            cells.append("-")
        else:
            mean, low, high = rate.success
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
    expert = card.rates.get("expert")
    cells.append("-" if expert is None else f"{expert.turns:.1f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
