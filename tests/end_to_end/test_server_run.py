"""Whole runs under a teacher behind a server: what they learn is what they would from the same model in the process."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import dump_config
from trpd_agents.errors import RunError, UserError
from trpd_agents.teacher import http
from trpd_agents.training import train

SHORT = {"steps": 2, "episodes_per_step": 4, "group_size": 2, "save_trajectories_every": 1}
CHEAP = {"before": False, "teacher": False, "episodes": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(http, "LONGEST_DELAY", 0.1)


@pytest.fixture
def behind(configure):
    """`behind(server, **sections)`: a short run whose teacher `server` is."""

    def build(server: Any, **changes: Any) -> Any:
        teacher = {"kind": "server", "url": server.url, "model": server.name, **changes.pop("teacher", {})}
        base = configure(training=SHORT, evaluation=CHEAP, **changes).model_dump()
        return type(configure()).model_validate({**base, "teacher": teacher, "credit": changes["credit"]})

    return build


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(path / "student" / "model.safetensors").items()}


@pytest.mark.parametrize(
    "credit",
    [
        {"preset": "opd"},
        {"preset": "tropd", "guidance": "none", "outlier": {"top_k": 8}},
        {"preset": "fkl", "outlier": {"top_k": 8}},
    ],
    ids=lambda credit: credit["preset"],
)
def test_it_learns_what_it_learns_from_the_same_model_here(configure, behind, make_lm, serve, tmp_path, credit):
    server = serve(make_lm(1))
    train(behind(server, credit=credit), tmp_path / "server", quiet=True)
    train(configure(credit=credit, training=SHORT, evaluation=CHEAP), tmp_path / "local", quiet=True)
    here, there = weights(tmp_path / "local"), weights(tmp_path / "server")
    assert here.keys() == there.keys()
    assert max(np.abs(here[name] - there[name]).max() for name in here) <= 1e-5
    for one, other in zip(metrics(tmp_path / "local"), metrics(tmp_path / "server"), strict=True):
        for name in ("loss", "kl", "acceptance", "kept_share", "forward_kl_share", "grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
    assert not (tmp_path / "server" / "teacher").exists()


def test_it_is_evaluated_and_guides(behind, make_lm, serve, tmp_path):
    server = serve(make_lm(1))
    credit = {"preset": "tropd", "guidance": {"turns": 9, "schedule": "constant"}, "outlier": {"top_k": 4}}
    config = behind(server, credit=credit)
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"teacher": True})})
    summary = train(config, tmp_path / "run", quiet=True)
    assert summary["teacher"]["episodes"] == 2
    for line in metrics(tmp_path / "run"):
        assert line["guided_tokens"] > 0 and line["action_tokens"] == 0 and np.isfinite(line["loss"])


def test_a_rescue_reads_along(behind, make_lm, serve, tmp_path):
    credit = {"preset": "opd", "guidance": {"kind": "rescue", "enter": 0.1, "budget": 1}}
    train(behind(serve(make_lm(1)), credit=credit), tmp_path / "run", quiet=True)
    assert sum(line["guided_tokens"] for line in metrics(tmp_path / "run")) > 0


def test_without_a_server_nothing_is_loaded_or_written(behind, make_lm, serve, tmp_path, monkeypatch):
    server = serve(make_lm(1))
    config = behind(server, credit={"preset": "opd"})
    server.stop()
    monkeypatch.setattr("trpd_agents.preparation.load_model", None)
    monkeypatch.setattr("trpd_agents.starts.prepare_model", None)
    with pytest.raises(UserError, match=f"{server.url}.*did not answer"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_server_that_goes_away_for_a_while_changes_nothing(behind, make_lm, serve, tmp_path, capfd):
    server = serve(make_lm(1))
    config = behind(server, credit={"preset": "opd"}, teacher={"patience_seconds": 20.0})
    train(config, tmp_path / "undisturbed", quiet=True)
    capfd.readouterr()
    honest, asked = server.answer, 0

    def answer(path, body, key):  # the connection of the first scores of the second step is cut, and the server is down
        nonlocal asked
        asked += "prompt_logprobs" in body and len(body["prompt"]) > 100
        if asked == 8:
            asked += 1
            threading.Thread(target=server.stop).start()
            threading.Timer(0.8, server.start).start()
        return honest(path, body, key)

    server.answer = answer
    train(config, tmp_path / "disturbed")
    said = capfd.readouterr().out
    assert f"server at {server.url}: " in said and "trying again" in said and "going on" in said
    here, there = weights(tmp_path / "undisturbed"), weights(tmp_path / "disturbed")
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_after_patience_ended_the_run_goes_on_where_it_was(behind, make_lm, serve, tmp_path):
    server = serve(make_lm(1))
    config = behind(server, credit={"preset": "opd"}, teacher={"patience_seconds": 0.3})
    train(config, tmp_path / "undisturbed", quiet=True)
    config = config.model_copy(update={"training": config.training.model_copy(update={"checkpoint_every": 1})})
    honest = server.answer

    def answer(path, body, key):
        if (tmp_path / "run" / "checkpoints" / "step-000001").exists():
            threading.Thread(target=server.stop).start()
        return honest(path, body, key)

    server.answer = answer
    with pytest.raises(RunError, match="trpd train --resume"):
        train(config, tmp_path / "run", quiet=True)
    del server.answer
    server.start()
    train(config, resume=tmp_path / "run", quiet=True)
    here, there = weights(tmp_path / "undisturbed"), weights(tmp_path / "run")
    assert all(np.array_equal(here[name], there[name]) for name in here)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]


def test_a_run_goes_on_with_the_model_it_began_with(behind, make_lm, serve, tmp_path):
    server = serve(make_lm(1))
    config = behind(server, credit={"preset": "opd"})
    train(config, tmp_path / "run", quiet=True)
    server.lm = make_lm(2)
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    with pytest.raises(UserError, match="another model than at the start"):
        train(longer, resume=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        ({"preset": "trajectory"}, "credit.estimator.kind: 'full' sums over"),
        ({"preset": "opd", "estimator": {"kind": "top_k"}}, "credit.estimator.kind: 'top_k' sums over"),
        ({"preset": "eopd"}, "credit.outlier.kind: 'entropy' reads"),
    ],
)
def test_what_needs_the_whole_distribution_is_refused_in_the_recipe(configure, tmp_path, credit, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_config(configure()))
    change = [f"teacher={json.dumps({'kind': 'server', 'url': 'http://127.0.0.1:9/v1', 'model': 'm'})}"]
    found = CliRunner().invoke(app, ["train", str(path), *change, f"credit={json.dumps(credit)}", "--dry-run"])
    assert (
        found.exit_code == 2
        and expected in found.stderr
        and "'sampled'" in found.stderr
        or "forward_kl" in found.stderr
    )
