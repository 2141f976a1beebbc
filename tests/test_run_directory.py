"""What is in a run directory is complete, or is refused before it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from trpd_agents.errors import UserError
from trpd_agents.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "seed: 0\n")


def test_a_new_run_says_what_it_is_made_with(directory):
    assert (directory.path / "config.yaml").read_text() == "seed: 0\n"
    versions = directory.read_json("versions.json")
    assert versions["torch"] == torch.__version__ and versions["python"]


def test_an_existing_directory_is_refused(directory, tmp_path):
    with pytest.raises(UserError, match=r"exists already; continue it with `trpd train --resume"):
        RunDirectory.create(directory.path, "seed: 1\n")
    assert (directory.path / "config.yaml").read_text() == "seed: 0\n"
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="exists already"):
        RunDirectory.create(file, "")


def test_an_empty_directory_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", "seed: 0\n")


def test_a_directory_that_cannot_be_made_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        RunDirectory.create(tmp_path / "file" / "run", "")


def test_only_a_run_directory_is_opened(directory, tmp_path):
    assert RunDirectory.open(directory.path).path == directory.path
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        RunDirectory.open(tmp_path / "nowhere")


def test_json_files(directory):
    assert directory.read_json("none.json") is None
    directory.write_json("some.json", {"a": [1, None]})
    assert directory.read_json("some.json") == {"a": [1, None]}
    (directory.path / "some.json").write_text('{"a": [1')
    with pytest.raises(UserError, match=r"some\.json is damaged"):
        directory.read_json("some.json")


def test_a_refused_run_takes_back_what_it_made_and_nothing_else(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "precious").write_text("")
    (tmp_path / "mine").mkdir()
    for name in ("new/folders/run", "others/run", "mine"):
        directory = RunDirectory.create(tmp_path / name, "seed: 0\n")
        (directory.path / "teacher").mkdir()
        directory.discard()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["mine", "others", "others/precious"]


def test_a_run_with_a_checkpoint_is_never_taken_back(directory):
    directory.checkpoints.save(0, lambda folder: (folder / "some").write_text("thing"), 1, {})
    before = sorted(directory.path.rglob("*"))
    directory.discard()
    assert sorted(directory.path.rglob("*")) == before


# The lock

HOLDER = """
import sys, time
from pathlib import Path
from trpd_agents.run_directory import RunDirectory
with RunDirectory.open(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_the_first_is_gone_however_it_went(directory):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(directory.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=rf"in use by process {holder.pid} on .*; wait for it or stop it"):
            with directory.locked():
                pass
        holder.kill()
    with directory.locked():
        pass
    assert not (directory.path / ".lock").exists()


# Metrics


def lines(directory: RunDirectory) -> list[int]:
    return [json.loads(line)["step"] for line in (directory.path / "metrics.jsonl").read_text().splitlines()]


def test_metrics_after_the_checkpoint_are_forgotten(directory):
    for step in (1, 2, 3):
        directory.append_metrics({"step": step, "kl": 0.5})
    directory.rewind_metrics(2)
    assert lines(directory) == [1, 2]
    directory.append_metrics({"step": 3, "kl": 0.25})
    assert lines(directory) == [1, 2, 3]


@pytest.mark.parametrize("half", ['{"step": 3, "kl', "3", "nonsense", '{"kl": 1}'])
def test_a_line_cut_off_by_a_kill_is_dropped(directory, half):
    for step in (1, 2):
        directory.append_metrics({"step": step})
    with (directory.path / "metrics.jsonl").open("a") as file:
        file.write(half)
    directory.rewind_metrics(3)
    assert lines(directory) == [1, 2]


def test_rewinding_without_metrics_does_nothing(directory):
    directory.rewind_metrics(0)
    assert not (directory.path / "metrics.jsonl").exists()
