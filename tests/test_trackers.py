"""What shows a run's metrics: every figure once, under the same name, also when the run is cut off; and never more."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trpd_agents.config.load import parse_config
from trpd_agents.distributed import World
from trpd_agents.errors import UserError
from trpd_agents.histograms import BINS, closed, histograms
from trpd_agents.metrics import MetricsWriter, transcript
from trpd_agents.run_directory import RunDirectory
from trpd_agents.trackers import KEPT, check_trackers
from trpd_agents.training import train
from trpd_agents.trajectory import Outcome, Stop, Trajectory, Turn

TURN_BINS = [0] * (len(BINS["turn_divergence_histogram"]) + 1)
FIGURES = {"kl": 0.5, "log_ratio_histogram": [1, *[0] * 8, 2, *[0] * 7, 4], "turn_divergence_histogram": TURN_BINS}


def configuration(**tracking: Any) -> Any:
    return parse_config(
        {
            "env": {"id": "GuessNumber-v0"},
            "student": {"model": "nowhere"},
            "teacher": {"model": "nowhere"},
            "credit": {"preset": "opd"},
            "learner": {"lr": 0.1},
            "training": {"steps": 1, "episodes_per_step": 1},
            "tracking": tracking,
        }
    )


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """wandb and trackio as modules that write down what they are told; `refuse` and `fail_at` in it make them fail."""
    told: dict[str, Any] = {"wandb": [], "trackio": [], "refuse": None, "fail_at": None}

    class Run:
        def __init__(self, service: str, given: dict[str, Any]):
            if told["refuse"] == service:
                raise RuntimeError("not logged in\nlong explanation")
            self.service = service
            told[service].append(("init", given))

        def log(self, figures: dict[str, Any], step: int) -> None:
            if told["fail_at"] == step:
                raise ConnectionError("the network is away")
            told[self.service].append(("log", step, figures))

        def finish(self, **how: Any) -> None:
            told[self.service].append(("finish", how))

    for name in ("wandb", "trackio"):
        module: Any = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.init = lambda service=name, **given: Run(service, given)
        module.Settings = lambda **given: given
        module.Histogram = lambda np_histogram: np_histogram
        monkeypatch.setitem(sys.modules, name, module)
    return told


BOTH = {"wandb": {"project": "p", "mode": "offline"}, "trackio": {"project": "p"}}


def test_a_package_that_is_missing_is_named_before_anything_is_read(monkeypatch, tmp_path):
    for name in BOTH:
        monkeypatch.setitem(sys.modules, name, None)
        config = configuration(**{name: BOTH[name]})
        with pytest.raises(UserError, match=rf"pip install 'trpd-agents\[{name}\]'; or set tracking.{name}=null"):
            train(config, tmp_path / "run", quiet=True)  # its models are nowhere, which would be the next mistake
        assert not (tmp_path / "run").exists()
    check_trackers(configuration().tracking)


def test_services_get_each_step_once_and_go_on_in_the_same_run(services, directory):
    config = configuration(**BOTH)
    with MetricsWriter(config, directory, 0, print) as writer:
        writer.write(1, FIGURES)
    with pytest.raises(KeyboardInterrupt), MetricsWriter(config, directory, 1, print) as writer:
        writer.write(2, FIGURES)
        raise KeyboardInterrupt
    for name in BOTH:
        what = [entry[0] for entry in services[name]]
        assert what == ["init", "log", "finish", "init", "log", "finish"]
        first, second = (entry[1] for entry in services[name] if entry[0] == "init")
        assert first == second and first["resume"] == "allow"
        assert [entry[1] for entry in services[name] if entry[0] == "log"] == [1, 2]
    known = json.loads((directory.path / KEPT).read_text())
    assert known["wandb"] == services["wandb"][0][1]["id"] and known["trackio"] == services["trackio"][0][1]["name"]
    assert [entry[1] for entry in services["wandb"] if entry[0] == "finish"] == [{"exit_code": 0}, {"exit_code": 1}]
    counts, limits = services["wandb"][1][2]["log_ratio_histogram"]
    assert len(limits) == len(counts) + 1 and services["trackio"][1][2] == {"kl": 0.5}


def test_nothing_but_settings_and_metrics_is_sent(services, directory, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-mine")
    with MetricsWriter(configuration(**BOTH), directory, 0, print):
        pass
    settings = services["wandb"][0][1]["settings"]
    assert settings["disable_git"] and settings["x_disable_meta"] and not settings["save_code"]
    assert "secret-of-mine" not in repr(services)
    assert not any(b"secret-of-mine" in file.read_bytes() for file in directory.path.rglob("*") if file.is_file())
    with pytest.raises(UserError, match=r"tracking.wandb.api_key: unknown key"):
        configuration(wandb={"project": "p", "api_key": "secret-of-mine"})


def test_a_service_that_fails_on_the_way_is_left_alone(services, directory):
    said: list[str] = []
    services["fail_at"] = 2
    with MetricsWriter(configuration(**BOTH), directory, 0, said.append) as writer:
        for step in (1, 2, 3):
            writer.write(step, FIGURES)
    assert said == [
        f"{name} gets no more metrics: the network is away; they are in metrics.jsonl" for name in ("wandb", "trackio")
    ]
    assert len((directory.path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_service_that_refuses_the_run_is_the_users_mistake(services, directory):
    services["refuse"] = "wandb"
    with pytest.raises(UserError, match=r"wandb cannot begin: not logged in; .* or set tracking.wandb=null"):
        MetricsWriter(configuration(**BOTH), directory, 0, print)


def test_tensorboard_shows_numbers_histograms_and_episodes(directory):
    with MetricsWriter(configuration(), directory, 0, print) as writer:
        writer.write(1, FIGURES)
        writer.show(1, [episode(), episode(), episode()])
    board = EventAccumulator(str(directory.path / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert tags["scalars"] == ["kl"]
    assert tags["histograms"] == ["log_ratio_histogram"]  # of turns none counted, so there is nothing to show
    (found,) = board.Histograms("log_ratio_histogram")
    assert found.histogram_value.num == 7 and found.histogram_value.max == closed(BINS["log_ratio_histogram"])[-1][1]
    assert sorted(tags["tensors"]) == ["episode_0/text_summary", "episode_1/text_summary"]
    (text,) = board.Tensors("episode_0/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in shown.splitlines()) and "<script>" in shown  # code, not HTML


def test_tensorboard_can_be_left_out(directory):
    with MetricsWriter(configuration(tensorboard=False), directory, 0, print) as writer:
        writer.write(1, FIGURES)
    assert not (directory.path / "tensorboard").exists()


def episode() -> Trajectory:
    turn = Turn((0, 2), (2, 4), "student", Stop.END, "a door \x1b[31m", "<script>\u202e", ok=False)
    tokens, logprobs = np.zeros(4, dtype=np.int32), np.zeros(4, dtype=np.float32)
    return Trajectory(0, "x/Y-v0", {}, 3, tokens, logprobs, [turn], Outcome.TERMINATED, False, 0.5, "the end")


def test_a_transcript_has_all_that_was_said_and_no_command():
    text = transcript(episode())
    assert "x/Y-v0, seed 3: failure (terminated), reward 0.5" in text and "refused" in text and "the end" in text
    assert "␛[31m" in text and "⟨U+202E⟩" in text and not set(text) & {"\x1b", "\u202e"}


# Histograms


def batch(rows: int, seed: int) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(seed)
    ls, lt = (10 * torch.randn(rows, 7, generator=draw) for _ in range(2))
    lt[0, 0], lt[0, 1] = torch.nan, -torch.inf
    available = torch.arange(rows) % 3 != 2
    scored = SimpleNamespace(
        ls=ls, lt=lt, action=torch.rand(rows, 7, generator=draw) < 0.7, teacher_available=available
    )
    credit = SimpleNamespace(
        turn_divergence=torch.rand(rows, 4, generator=draw) * 3, turn_counts=torch.rand(rows, 4, generator=draw) < 0.6
    )
    return scored, credit


def test_counts_are_those_of_the_finite_values():
    scored, credit = batch(9, 0)
    found = histograms(World(), scored, credit)
    d = (scored.lt - scored.ls)[scored.action & scored.teacher_available[:, None]].numpy()
    wanted = {"log_ratio_histogram": d[np.isfinite(d)]}
    wanted["turn_divergence_histogram"] = credit.turn_divergence[credit.turn_counts].numpy()
    assert set(found) == set(wanted) == set(BINS)
    for name, values in wanted.items():
        counts = np.histogram(values, [-np.inf, *BINS[name], np.inf])[0]
        assert found[name] == counts.tolist() and sum(found[name]) == len(values)
    assert found["log_ratio_histogram"][0] > 0 and found["log_ratio_histogram"][-1] > 0


def test_ranks_add_up():
    (one, first), (two, second) = batch(4, 1), batch(6, 2)
    halves = [histograms(World(), *part) for part in ((one, first), (two, second))]

    class Two(World):
        def sum(self, *values: float) -> list[float]:
            other = [n for row in halves[1].values() for n in row]
            return [a + b for a, b in zip(values, other, strict=True)]

    whole = histograms(Two(), one, first)
    for name in BINS:
        assert whole[name] == [a + b for a, b in zip(halves[0][name], halves[1][name], strict=True)]


# The real thing, where it is installed


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_itself_offline(directory, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    config = configuration(wandb=BOTH["wandb"])
    for first in (0, 1):
        with MetricsWriter(config, directory, first, pytest.fail) as writer:
            writer.write(first + 1, FIGURES)
    runs = sorted((directory.path / "wandb").glob("offline-run-*"))
    known = json.loads((directory.path / KEPT).read_text())["wandb"]
    assert runs and all(run.name.endswith(known) for run in runs)
    content = b"".join(file.read_bytes() for file in directory.path.rglob("*") if file.is_file())
    assert b"0123456789" * 4 not in content and b"log_ratio_histogram" in content


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_itself(directory, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for first in (0, 1):
        with MetricsWriter(configuration(trackio=BOTH["trackio"]), directory, first, pytest.fail) as writer:
            writer.write(first + 1, FIGURES)
    assert list((tmp_path / "trackio").glob("*.db"))


def test_the_documented_bins_are_these():
    table = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name, edges in BINS.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert f"bins end at {', '.join(f'{edge:g}' for edge in edges)}" in row
