"""Comparing methods over environments, teachers and seeds: from a study file to tables, curves and plots.

study file -> plan -> jobs in worker processes -> members' run directories -> rows -> tables and plots
"""

from __future__ import annotations

from pathlib import Path

from trpd_agents.study.config import StudyConfig, load_study, parse_study
from trpd_agents.study.plan import make_plan
from trpd_agents.study.plots import plot
from trpd_agents.study.results import curve_rows, member_rows, write_rows
from trpd_agents.study.run import run_study
from trpd_agents.study.store import StudyDirectory
from trpd_agents.study.tables import tables

__all__ = ["StudyConfig", "load_study", "parse_study", "run_study", "write_report"]


def write_report(study: StudyConfig, out: Path) -> str:
    """Rows, curves, tables and plots of what is finished in `out`; returns the tables."""
    plan, directory = make_plan(study), StudyDirectory(out)
    out.mkdir(parents=True, exist_ok=True)
    rows, curves = member_rows(plan, directory), list(curve_rows(plan, directory))
    write_rows(rows, curves, directory)
    text = tables(study, plan, rows, directory)
    (out / "tables.md").write_text(text, encoding="utf-8")
    plot(curves, out / "plots")
    return text
