"""`trpd study` on the command line: what is refused, and what is said at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import trpd_agents.study
from trpd_agents.cli import app
from trpd_agents.interrupt import Interrupted

SMOKE = str(Path(__file__).parents[2] / "configs" / "study" / "example-smoke.yaml")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments: str):
    return CliRunner().invoke(app, ["study", *arguments])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["none.yaml"], "error: no study file at none.yaml"),
        ([SMOKE, "--only", "nothing"], "error: --only 'nothing' fits none of the 4 members"),
        ([SMOKE, "--out", "file"], "error: --out file is a file; name a directory"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(arguments, wanted):
    Path("file").write_text("")
    result = call(*arguments)
    assert result.exit_code == 2 and wanted in result.stderr and "Traceback" not in result.output
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_a_report_of_nothing_says_that_nothing_was_run():
    result = call(SMOKE, "--report-only")
    assert result.exit_code == 0
    assert "0 of 4 members finished" in result.stdout and "- `guess/learned/opd/0`: not run yet" in result.stdout
    assert Path("runs/study/example-smoke/tables.md").read_text() in result.stdout


def test_what_failed_ends_with_code_1(monkeypatch):
    failed = {"guess/learned/opd/0": "out of memory\nand more"}
    monkeypatch.setattr(trpd_agents.study, "run_study", lambda *args, **kwargs: failed)
    result = call(SMOKE, "--out", "out")
    assert result.exit_code == 1
    assert "error: 1 failed; `trpd study" in result.stderr
    assert "guess/learned/opd/0: out of memory" in result.stderr and "and more" not in result.stderr


def test_an_interruption_says_how_to_go_on(monkeypatch):
    def stopped(*args, **kwargs):
        raise Interrupted("stopped; the same command goes on from here")

    monkeypatch.setattr(trpd_agents.study, "run_study", stopped)
    result = call(SMOKE, "--out", "out")
    assert result.exit_code == 130
    assert f"goes on from here: trpd study {SMOKE} --out out" in result.stderr
