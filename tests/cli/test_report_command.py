"""`trpd report`, and the report at the end of `trpd train`: what is printed, what is refused, what fails no run."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.interrupt import Interrupted


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_says_which_page_to_open(make_run) -> None:
    path = make_run()
    code, out, err = run("report", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"2 episodes; open {path / 'report' / 'index.html'}"
    assert "report 1/1" in out


def test_elsewhere_and_against_another_run(make_run, tmp_path) -> None:
    code, _, _ = run("report", make_run(), "--against", make_run("other"), "--out", tmp_path / "pages")
    assert code == 0 and (tmp_path / "pages" / "compare.html").is_file()
    assert not (tmp_path / "run" / "report").exists()


def test_what_is_missing_is_said(make_run) -> None:
    path = make_run()
    (path / "evaluations.json").write_text("[]")
    code, _, err = run("report", path)
    assert code == 0 and err == "not shown: evaluations.json: a JSON object wanted, found list\n"


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_refused(tmp_path, name) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = run("report", tmp_path / name)
    assert (code, out) == (2, "") and err.startswith("error: ") and "give the directory of a run" in err


# ---- at the end of a training run ----------------------------------------------------------------

SUMMARY = {"before": {"success_rate": 0.5, "interval": [0.4, 0.6], "episodes": 10}, "run_dir": "run"}


@pytest.fixture
def trained(make_run, runs, tmp_path, monkeypatch):
    """`trained(ends, *settings)`: `trpd train` with a training that has written a run's directory, and then ends."""

    def train(ends=lambda: SUMMARY, *settings: str):
        def training(*_, **__):
            make_run()
            return ends()

        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(runs.CONFIG)
        monkeypatch.setattr("trpd_agents.training.train", training)
        return tmp_path / "run", run("train", recipe, *settings, "--run-dir", tmp_path / "run")

    return train


def interrupted() -> None:
    raise Interrupted("stopped after step 3")


def test_training_ends_with_a_report(trained) -> None:
    path, (code, out, _) = trained()
    assert code == 0 and out.splitlines()[-1] == f"report: {path / 'report' / 'index.html'}"


def test_unless_it_is_told_not_to(trained) -> None:
    path, (code, out, _) = trained(lambda: SUMMARY, "report=false")
    assert code == 0 and "report" not in out and not (path / "report").exists()


def test_a_report_that_cannot_be_written_does_not_fail_the_run(trained, tmp_path) -> None:
    def spoiled() -> dict:
        (tmp_path / "run" / "report").write_text("mine")
        return SUMMARY

    _, (code, out, err) = trained(spoiled)
    assert code == 0 and "no report was written" in err and "success rate" in out


def test_a_small_run_that_is_interrupted_has_one_too(trained, monkeypatch) -> None:
    path, (code, out, err) = trained(interrupted)
    assert code == 130 and "stopped after step 3" in err and (path / "report" / "index.html").is_file()


def test_a_large_one_is_left_at_once(trained, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["trpd_agents.cli.report"], "_CHEAP", 10)
    path, (code, _, _) = trained(interrupted)
    assert code == 130 and not (path / "report").exists()
