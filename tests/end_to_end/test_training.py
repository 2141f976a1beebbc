"""Whole runs of a tiny student: what they leave behind, and that nothing but the configuration decides how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from trpd_agents import training
from trpd_agents.cli import app
from trpd_agents.config import dump_config
from trpd_agents.dialogue import train_tokenizer
from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted
from trpd_agents.models import load_model
from trpd_agents.rollout import TransformersEngine
from trpd_agents.storage import read_trajectories
from trpd_agents.training import episodes_of, train

TIMES = ("seconds", "tokens_per_second")
SCRIPTED = Path(__file__).parents[1] / "rollout" / "scripted_env.py"


@pytest.fixture(scope="module")
def finished(configure, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run and its summary. Tests that change its directory take a copy."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    return path, train(configure(), path, quiet=True)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "moved"))


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def timeless(path: Path) -> list[dict[str, Any]]:
    return [{name: v for name, v in line.items() if not name.startswith(TIMES)} for line in metrics(path)]


# What a run leaves behind


def test_the_run_directory_has_every_file(finished):
    path, _ = finished
    assert sorted(p.name for p in path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "evaluations.json",
        "metrics.jsonl",
        "student",
        "summary.json",
        "teacher",
        "tensorboard",
        "trajectories",
        "versions.json",
    ]
    assert [p.name for p in sorted((path / "trajectories").iterdir())] == [
        "step-000001.parquet",
        "step-000002.parquet",
        "step-000004.parquet",
    ]
    assert [p.name for p in sorted((path / "checkpoints").iterdir())] == ["step-000000", "step-000004"]
    assert not list(path.rglob("*.half"))


def test_the_resolved_configuration_is_written(finished, configure):
    assert (finished[0] / "config.yaml").read_text() == dump_config(configure())


def test_the_summary(finished):
    path, summary = finished
    assert json.loads((path / "summary.json").read_text()) == {k: v for k, v in summary.items() if k != "run_dir"}
    assert summary["run_dir"] == str(path)
    for who in ("before", "after", "teacher"):
        low, high = summary[who]["interval"]
        assert 0 <= low <= summary[who]["success_rate"] <= high <= 1 and low < high
        assert summary[who]["episodes"] == 8
    change = summary["paired_difference"]
    assert change["mean"] == pytest.approx(summary["after"]["success_rate"] - summary["before"]["success_rate"])
    assert change["interval"][0] <= change["mean"] <= change["interval"][1]
    assert {"rollout", "score", "credit", "update", "evaluate"} <= summary["seconds"].keys()
    assert summary["tokens"]["rollout"] == sum(line["action_tokens"] for line in metrics(path))
    assert summary["tokens"]["evaluate"] > 0


def test_the_models_are_plain_transformers_models(finished):
    path, _ = finished
    for name in ("student", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(path / name)
        tokenizer = AutoTokenizer.from_pretrained(path / name)
        chat = [{"role": "user", "content": "Guess"}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert model.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_the_teacher_is_kept_as_it_was_and_the_student_was_trained(finished, make_lm):
    path, _ = finished
    for name, seed, unchanged in (("teacher", 1, True), ("student", 0, False)):
        found, start = load_model(str(path / name)).model.state_dict(), make_lm(seed).model.state_dict()
        assert all(torch.equal(found[n], start[n]) for n in start) is unchanged
    last = load_model(str(path / "checkpoints" / "step-000004" / "student")).model.state_dict()
    final = load_model(str(path / "student")).model.state_dict()
    assert all(torch.equal(last[n], final[n]) for n in final)


def test_metrics_of_every_step(finished):
    path, _ = finished
    lines = metrics(path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert all(np.isfinite(value) for value in line.values() if not isinstance(value, list))
        assert line["episodes"] == 8 and line["environment_failures"] == 0
        assert line["sampler_gap"] < 1e-4
        assert 0 <= line["acceptance"] <= 1 and 0 < line["kept_share"] <= 1
        assert line["kl"] > 0 and line["reverse_kl"] > 0
    assert [line["lr"] for line in lines] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])


def test_metrics_by_turn_agree_with_those_of_the_step(finished):
    path, _ = finished
    played = 0
    for line in metrics(path):
        columns = {name: values for name, values in line.items() if name.endswith("_by_turn")}
        assert {len(values) for values in columns.values()} == {2}  # max_turns
        turns, tokens, counted = (columns[f"{name}_by_turn"] for name in ("turns", "action_tokens", "counted"))
        assert turns[0] == 8 >= turns[1]
        assert sum(turns) == pytest.approx(line["turns"] * line["episodes"])
        assert sum(tokens) == line["action_tokens"]
        kept = sum(share * n for share, n in zip(columns["kept_share_by_turn"], tokens, strict=True) if n)
        assert kept / sum(tokens) == pytest.approx(line["kept_share"])
        diverged = sum(mean * n for mean, n in zip(columns["divergence_by_turn"], counted, strict=True) if n)
        assert diverged / max(sum(counted), 1) == pytest.approx(line["turn_divergence"])
        for mean, n in zip(columns["divergence_by_turn"], counted, strict=True):
            assert (mean is None) == (n == 0)
        played += sum(turns)
        assert line["environment_steps"] == played and line["turn_cap"] == 2


def board(path: Path) -> list[int]:
    found = EventAccumulator(str(path / "tensorboard"))
    found.Reload()
    return [event.step for event in found.Scalars("kl")]


def test_tensorboard_has_the_same_steps(finished):
    assert board(finished[0]) == [1, 2, 3, 4]


def test_stored_trajectories_are_the_steps_episodes(finished, configure):
    path, _ = finished
    for done in (1, 4):
        stored = read_trajectories(path / "trajectories" / f"step-{done:06d}.parquet")
        plan = episodes_of(configure(), done - 1)
        assert [(t.seed, t.id) for t in stored] == [(e.seed, e.key) for e in plan]
        assert {t.policy_version for t in stored} == {done - 1}
        line = metrics(path)[done - 1]
        assert sum(len(t.action_positions()) for t in stored) == line["action_tokens"]
        assert np.mean([t.success for t in stored]) == pytest.approx(line["success"])
        for t in stored:
            assert t.scores is not None and np.array_equal(t.scores.positions, t.action_positions())
    ids = [t.id for t in read_trajectories(path / "trajectories" / "step-000002.parquet")]
    assert ids == list(range(8, 16))


def test_evaluations_keep_every_outcome(finished):
    evaluations = json.loads((finished[0] / "evaluations.json").read_text())
    assert set(evaluations) == {"before", "teacher", "after"}
    last = metrics(finished[0])[-1]["environment_steps"]
    assert [evaluations[name]["environment_steps"] for name in ("before", "teacher", "after")] == [0, 0, last]
    for found in evaluations.values():
        assert [int(seed) for seed in found["outcomes"]] == list(range(1_000_000, 1_000_008))


def test_training_seeds_are_never_held_out(configure):
    config = configure(training={"episodes_per_step": 400}, evaluation={"episodes": 2**29, "seed": 1000})
    seeds = [e.seed for step in range(3) for e in episodes_of(config, step)]
    assert all(not 1000 <= seed < 1000 + 2**29 for seed in seeds)
    assert len(set(seeds)) == 600  # two episodes of each
    assert len({e.key for step in range(3) for e in episodes_of(config, step)}) == 1200


# Going on after an interruption


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the metrics of `step` are written."""
    record = training.record

    def recorded(*arguments: Any) -> None:
        record(*arguments)
        if arguments[4] == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training, "record", recorded)


def test_an_interrupted_run_ends_as_if_nothing_had_been(finished, configure, tmp_path, monkeypatch):
    path = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(Interrupted, match="stopped after step 2 of 4; go on with: trpd train --resume"):
            train(configure(), path, quiet=True)
    assert [line["step"] for line in metrics(path)] == [1, 2]
    np.random.seed(5), torch.manual_seed(5)  # a new process starts in another state
    summary = train(configure(), resume=path, quiet=True)
    undisturbed, wanted = finished
    assert timeless(path) == timeless(undisturbed)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (path / "student" / name).read_bytes() == (undisturbed / "student" / name).read_bytes()
    for name in ("before", "after", "teacher", "paired_difference", "tokens"):
        assert summary[name] == wanted[name]
    for name in ("step-000002", "step-000004"):
        stored, reference = (read_trajectories(p / "trajectories" / f"{name}.parquet") for p in (path, undisturbed))
        assert [t.tokens.tolist() for t in stored] == [t.tokens.tolist() for t in reference]
    assert board(path) == [1, 2, 3, 4]


def test_a_killed_run_goes_on_from_its_last_checkpoint(finished, configure, tmp_path, monkeypatch):
    """Killed in step 4, with a checkpoint of step 2: steps 3 and 4 are made again, not written twice."""
    config = configure(training={"checkpoint_every": 2})
    path = tmp_path / "killed"
    load_weights = TransformersEngine.load_weights

    def falls_over(self: Any, state: Any, version: int) -> None:
        if version == 4:
            raise MemoryError("killed")
        load_weights(self, state, version)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "load_weights", falls_over)
        with pytest.raises(MemoryError):
            train(config, path, quiet=True)
    assert [line["step"] for line in metrics(path)] == [1, 2, 3]
    train(config, resume=path, quiet=True)
    assert timeless(path) == timeless(finished[0])
    final, wanted = (p / "student" / "model.safetensors" for p in (path, finished[0]))
    assert final.read_bytes() == wanted.read_bytes()


def test_a_finished_run_may_be_resumed_for_more(copied, configure):
    summary = train(configure(training={"steps": 5}), resume=copied, quiet=True)
    assert [line["step"] for line in metrics(copied)] == [1, 2, 3, 4, 5]
    assert json.loads((copied / "evaluations.json").read_text())["after"]["step"] == 5
    assert summary["after"]["episodes"] == 8


@pytest.mark.parametrize("content", ["{}", "{ cut o"])
def test_a_run_that_lost_its_first_evaluation_is_not_resumed(copied, configure, content):
    (copied / "evaluations.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluations.json .*start a new run"):
        train(configure(training={"steps": 5}), resume=copied, quiet=True)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from trpd_agents.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_stops_after_the_step_and_says_how_to_go_on(configure, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(configure(training={"steps": 2000}, evaluation={"episodes": 2})))
    path = tmp_path / "run"
    process = start("train", recipe, "--run-dir", path, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (path / "metrics.jsonl").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    done = [line["step"] for line in metrics(path)]
    assert process.returncode == 130, err
    assert f"stopped after step {done[-1]} of 2000; go on with: trpd train --resume {path}" in err
    assert "Traceback" not in err
    assert "stopping after this step" in out
    assert (path / "checkpoints" / f"step-{done[-1]:06d}").is_dir()

    resumed = start("train", "--resume", path, f"training.steps={done[-1] + 1}", cwd=tmp_path)
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert [line["step"] for line in metrics(path)] == [*done, done[-1] + 1]
    assert "student after" in out and (path / "summary.json").is_file()
    assert board(path) == [*done, done[-1] + 1]


# Other methods and several ranks


def test_guidance_and_forward_kl(configure, tmp_path):
    credit = {"preset": "tropd", "outlier": {"top_k": 8}, "guidance": {"turns": 2}}
    train(configure(credit=credit), tmp_path / "run", quiet=True)
    lines = metrics(tmp_path / "run")
    assert lines[0]["guided_tokens"] > 0 and lines[0]["action_tokens"] == 0  # at first the teacher plays everything
    assert lines[-1]["guided_tokens"] == 0 and lines[-1]["action_tokens"] > 0
    assert lines[0]["imitation_nll"] > 0
    assert any(line["forward_kl_share"] > 0 and line["forward_kl"] != 0 for line in lines)
    first = read_trajectories(tmp_path / "run" / "trajectories" / "step-000001.parquet")
    assert {turn.author for t in first for turn in t.turns} == {"teacher"}
    assert first[0].scores is not None and first[0].scores.top_ids.shape[1] == 8


def test_two_ranks_do_what_one_does(finished, configure, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "two"
    train(configure(training={"ranks": 2}), path, quiet=True)
    first, alone = timeless(path)[0], timeless(finished[0])[0]
    for name in alone.keys() - {"sampler_gap"}:  # probed on one trajectory of each rank
        found, wanted = ([v or 0 for v in (x if isinstance(x, list) else [x])] for x in (first[name], alone[name]))
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6), name
    stored, wanted = (read_trajectories(p / "trajectories" / "step-000001.parquet") for p in (path, finished[0]))
    assert [t.tokens.tolist() for t in stored] == [t.tokens.tolist() for t in wanted]
    before, reference = (json.loads((p / "evaluations.json").read_text())["before"] for p in (path, finished[0]))
    assert before == reference


def test_failures_of_the_environment_are_counted_and_left_out(configure, tmp_path):
    settings = {"steps": 1, "group_size": 4}
    seeds = sorted({e.seed for e in episodes_of(configure(training=settings), 0)})
    # Each of the two seeds fails five times: in its four episodes, and in one of the four fresh starts.
    kwargs = {"fail": "step", "failures": 5, "bad_seeds": seeds, "tag": "train", "length": 2, "spread": 1}
    env = {"id": f"{SCRIPTED}:Scripted", "kwargs": kwargs, "workers": 0}  # it counts in the process that it is in
    config = configure(env=env, training=settings)
    train(config, tmp_path / "run", quiet=True)
    (line,) = metrics(tmp_path / "run")
    assert line["environment_failures"] == 2 and line["episodes"] == 6
    stored = read_trajectories(tmp_path / "run" / "trajectories" / "step-000001.parquet")
    assert [t.error is None for t in stored].count(False) == 2
    assert all((t.success is None) == (t.error is not None) == (t.scores is None) for t in stored)
    assert line["success"] == pytest.approx(np.mean([t.success for t in stored if t.error is None]))


def test_an_environment_that_always_fails_in_training_stops_the_run(configure, tmp_path):
    seeds = sorted({e.seed for e in episodes_of(configure(), 0)})
    kwargs = {"fail": "step", "failures": 99, "bad_seeds": seeds, "tag": "train-never", "length": 2}
    config = configure(env={"id": f"{SCRIPTED}:Scripted", "kwargs": kwargs})
    with pytest.raises(RunError, match="failed in every episode of this step: step_raised: .* fell over"):
        train(config, tmp_path / "run", quiet=True)


def test_an_environment_that_always_fails_in_evaluation_stops_the_run(configure, tmp_path):
    seeds = list(range(1_000_000, 1_000_008))
    kwargs = {"fail": "step", "failures": 99, "bad_seeds": seeds, "tag": "evaluate-all", "length": 2}
    config = configure(env={"id": f"{SCRIPTED}:Scripted", "kwargs": kwargs})
    with pytest.raises(RunError, match="failed in every held-out episode: 8 x step_raised"):
        train(config, tmp_path / "run", quiet=True)


# What is refused


def refused(*arguments: object) -> str:
    """The message of a command that ends with exit code 2."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_an_existing_run_directory_is_refused(finished, configure):
    before = sorted((p, p.stat().st_mtime_ns) for p in finished[0].rglob("*"))
    with pytest.raises(UserError, match="exists already; continue it with"):
        train(configure(), finished[0], quiet=True)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in finished[0].rglob("*"))


def test_a_teacher_with_another_vocabulary_is_refused(configure, make_lm, tmp_path):
    other = make_lm(2)
    other.tokenizer = train_tokenizer(["completely different words for a different vocabulary " * 3], 300)
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="student and teacher do not share a vocabulary"):
        train(configure(teacher={"model": str(tmp_path / "other")}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_more_top_tokens_than_there_are_is_refused(configure, tmp_path):
    config = configure(credit={"preset": "tropd", "outlier": {"top_k": 401}})
    with pytest.raises(UserError, match=r"top_k=401 is more than the models' vocabulary of 400 tokens; lower it"):
        train(config, tmp_path / "run", quiet=True)


def test_a_context_beyond_the_models_is_refused(configure, tmp_path):
    config = configure(rollout={"max_tokens": 4096})
    with pytest.raises(UserError, match=r"max_tokens=4096 is more than the student's context of 2048 tokens"):
        train(config, tmp_path / "run", quiet=True)


def test_ranks_on_a_gpu_are_refused(configure, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "pick_device", lambda name: torch.device("cuda"))
    config = configure(training={"ranks": 2}, learner={"device": "auto"})
    with pytest.raises(UserError, match=r"training\.ranks=2 .* set learner\.device=cpu, or training\.ranks=1"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_there_is_refused(configure, tmp_path):
    config = configure(student={"model": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="no such directory"):
        train(config, tmp_path / "run", quiet=True)


def test_a_sampler_with_other_weights_stops_the_run(configure, tmp_path, monkeypatch):
    """The engine keeps sampling with what it had; the probe notices at the next step."""
    logprobs = TransformersEngine.logprobs

    def stale(self: Any, *arguments: Any, **settings: Any) -> Any:
        scores = logprobs(self, *arguments, **settings)
        for score in scores:
            score.lt = score.lt - 0.2
        return scores

    monkeypatch.setattr(TransformersEngine, "logprobs", stale)
    with pytest.raises(RunError, match=r"the sampler and the trained weights disagree by 0\.2"):
        train(configure(), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
