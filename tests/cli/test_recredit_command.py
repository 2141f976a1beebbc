"""`trpd recredit` on a run stored by hand: what it prints, what it writes, what it refuses before reading scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.storage import write_trajectories
from trpd_agents.trajectory import Outcome, Scores, Stop, Trajectory, Turn

CONFIG = """
seed: 0
env: {id: KeyChain-v0}
student: {model: builtin:tiny}
teacher: {model: builtin:tiny}
credit: {preset: occupancy, rule: {budget: 4.0}}
learner: {lr: 1.0e-3}
training: {steps: 20, episodes_per_step: 2, save_trajectories_every: 10}
"""
LOG_RATIOS = [[-1.0, 0.0], [-4.0, -1.0], [0.0, 0.0]]  # nats, two tokens in each of three turns: outside from turn 2 on


def episode(key: int) -> Trajectory:
    spans = [(3 * k + 1, 3 * k + 3) for k in range(3)]
    turns = [Turn((start - 1, start), (start, end), "student", Stop.END, "seen", "done") for start, end in spans]
    positions = np.array([t for start, end in spans for t in range(start, end)])
    logprobs = np.full(9, np.nan, dtype=np.float32)
    logprobs[positions] = -1.0
    lt = np.array(LOG_RATIOS, dtype=np.float32).ravel() - 1
    scores = Scores(positions, lt, np.zeros((6, 2), np.int32), np.full((6, 2), -1.0, np.float32))
    tokens = np.arange(9, dtype=np.int32)
    return Trajectory(
        key, "KeyChain-v0", {}, key, tokens, logprobs, turns, Outcome.TERMINATED, True, 1.0, scores=scores
    )


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run_dir = tmp_path / "run"
    (run_dir / "trajectories").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(CONFIG)
    for step in (1, 10):
        write_trajectories(
            run_dir / "trajectories" / f"step-{step:06d}.parquet", [episode(2 * step), episode(2 * step + 1)]
        )
    monkeypatch.chdir(tmp_path)
    return run_dir


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["recredit", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> str:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ")
    return err


def test_the_tables_say_what_the_numbers_are(stored: Path) -> None:
    code, out, _ = run(stored, "credit.rule.budget=0.5")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == "4 trajectories of 2 stored steps, 24 action tokens"
    table = [line.split() for line in lines]
    assert ["0", "8", "1.000", "1.000", "1.000", "1.000"] in table
    assert ["1", "8", "1.000", "0.000", "1.000", "0.000"] in table  # one nat is lost in turn 0
    assert ["2", "8", "0.000", "0.000", "0.000", "0.000"] in table
    assert ["all", "24", "0.667", "0.333", "0.667", "0.333"] in table
    assert "dropped by the new method: 8 tokens; gained: 0" in out
    assert ["16", "8", "reverse", "KL", "at", "full", "weight"] in table
    assert any(row[:2] == ["8", "16"] and "outside the trajectory trust region" in out for row in table)
    tv = 1 - (np.exp(-1) + 1) / 2
    assert ["0", *[f"{tv:.3f}"] * 6] in table


def test_json_has_the_same_and_more(stored: Path) -> None:
    code, out, _ = run(stored, "credit.rule.budget=.inf", "--json", "--step", "10")
    found = json.loads(out)
    assert code == 0 and found["steps"] == [10] and found["trajectories"] == 2
    assert found["own"]["kept_share"] == [1, 1, 0] and found["new"]["kept_share"] == [1, 1, 1]
    assert (found["dropped"], found["gained"], found["tokens"]) == (0, 4, [4, 4, 4])
    assert len(found["quantiles"]) == len(found["new"]["divergence"][0])


def test_a_preset_starts_anew_and_other_settings_are_laid_over_the_runs_own(stored: Path) -> None:
    own = json.loads(run(stored, "credit.rule.forget=0.1", "--json")[1])["new"]  # the budget of 4 stays the run's
    assert own["kept_share"] == [1, 1, 0]
    rule = json.loads(run(stored, "credit.rule=stop", "credit.rule.enter=0.5", "--json")[1])["new"]
    assert rule["kept_share"] == [1, 1, 0]
    assert json.loads(run(stored, "credit.preset=opd", "--json")[1])["new"]["kept_share"] == [1, 1, 1]


def test_every_token_can_be_written(stored: Path) -> None:
    before = sorted(file.name for file in stored.rglob("*"))
    assert run(stored, "credit.preset=opd", "--out", "tokens.parquet")[0] == 0
    table = pq.read_table("tokens.parquet")
    assert table.num_rows == 24
    assert {"step", "trajectory", "position", "turn", "policy_weight", "reason", "own_policy_weight"} <= set(
        table.column_names
    )
    assert sorted(file.name for file in stored.rglob("*")) == before
    assert "a new file in an existing directory wanted" in refused(stored, "--out", "tokens.parquet")


def test_mistakes_are_refused(stored: Path) -> None:
    assert "nowhere is no directory; give the directory of a run" in refused("nowhere")
    assert "has no config.yaml" in refused(stored / "trajectories")
    assert "stored are 1, 10" in refused(stored, "--step", "2")
    assert "did you mean 'tropd'?" in refused(stored, "credit.preset=tropdd")
    assert "no rule is called 'stopp'" in refused(stored, "credit.rule=stopp")
    assert "found -1.0" in refused(stored, "credit.rule.budget=-1")
    assert "wanted at most hysteresis.enter" in refused(stored, "credit.rule={kind: hysteresis, leave: 0.5}")
    assert "found 64, wanted at most 2" in refused(stored, "credit.preset=tropd")
    assert "'entropy' needs" in refused(stored, "credit.preset=eopd", "credit.outlier.top_k=2")
    assert "write credit.KEY=VALUE" in refused(stored, "learner.lr=1")
    for file in (stored / "trajectories").iterdir():
        file.unlink()
    assert "training.save_trajectories_every" in refused(stored)
    (stored / "config.yaml").write_text("seed: x")
    assert "cannot be run" in refused(stored)


def test_help_teaches_with_examples() -> None:
    code, out, _ = run("--help")
    assert code == 0 and "Examples" in out and "credit.preset=tropd" in out


def test_no_model_library_is_loaded(stored: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from trpd_agents.cli import app\n"
        f"assert CliRunner().invoke(app, ['recredit', {str(stored)!r}, '--json']).exit_code == 0\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
