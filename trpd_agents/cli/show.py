"""What the commands print: tables fitted to a terminal, or as wide as they are in a pipe. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from trpd_agents.safe_text import visible


def show_table(rows: Sequence[Mapping[str, str]]) -> None:
    """A table with the keys of the rows as its heading; the first column is never cut.

    Texts are printed as they are: square brackets in them are not markup. A column with nothing in it is left out.
    """
    names = [name for name in rows[0] if any(row[name] not in ("", "-") for row in rows)] if rows else []
    columns = [Column(name, no_wrap=number == 0, overflow="fold") for number, name in enumerate(names)]
    if columns:
        columns[0].min_width = max(len(row[names[0]]) for row in rows)
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(visible(row[name])) for name in names))
    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=1_000)
    console.print(table)


def interval(mean: float, low: float, high: float, *, sign: str = "") -> str:
    """A mean with the ends of its interval, three decimals each; `sign="+"` for differences."""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
