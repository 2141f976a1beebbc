"""What is in a run directory is complete, or is refused before it is used."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch

from trpd_agents.errors import UserError
from trpd_agents.models import load_model
from trpd_agents.run_directory import RunDirectory, load_state


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "seed: 0\n")


@pytest.fixture
def saved(directory, make_lm) -> RunDirectory:
    """With checkpoints of steps 2 and 4."""
    for step in (2, 4):
        directory.save_checkpoint(step, make_lm(step), {"learner": {"steps": step}}, keep=2)
    return directory


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


def test_a_run_with_a_checkpoint_is_never_taken_back(saved):
    before = sorted(saved.path.rglob("*"))
    saved.discard()
    assert sorted(saved.path.rglob("*")) == before


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


# Checkpoints


def test_a_checkpoint_comes_back(saved, make_lm):
    found = saved.newest_checkpoint()
    assert found is not None
    step, path = found
    assert (step, path.name) == (4, "step-000004")
    assert load_state(path) == {"learner": {"steps": 4}}
    loaded = load_model(str(path / "student")).model.state_dict()
    for name, tensor in make_lm(4).model.state_dict().items():
        assert torch.equal(loaded[name], tensor)


def test_no_checkpoint_is_none(directory):
    assert directory.newest_checkpoint() is None


def test_only_the_newest_are_kept(saved, make_lm):
    saved.save_checkpoint(10, make_lm(0), {}, keep=2)
    assert [path.name for path in saved.checkpoints()] == ["step-000004", "step-000010"]
    saved.save_checkpoint(12, make_lm(0), {}, keep=1)
    assert [path.name for path in saved.checkpoints()] == ["step-000012"]


def test_a_step_may_be_saved_again(saved, make_lm):
    saved.save_checkpoint(4, make_lm(0), {"again": True}, keep=2)
    assert load_state(saved.checkpoints()[-1]) == {"again": True}
    saved.newest_checkpoint()


def test_a_checkpoint_that_was_never_finished_does_not_count(saved):
    half = saved.path / "checkpoints" / ".step-000006.half"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert saved.newest_checkpoint()[0] == 4


@pytest.mark.parametrize("name", ["state.pt", "student/model.safetensors", "student/tokenizer.json"])
def test_a_truncated_file_is_noticed(saved, name):
    file = saved.checkpoints()[-1] / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match=rf"{name} is damaged: found \d+ bytes.*go on from step-000002"):
        saved.newest_checkpoint()


@pytest.mark.parametrize("name", ["state.pt", "student/model.safetensors", "student/config.json"])
def test_a_flipped_byte_is_noticed(saved, name):
    file = saved.checkpoints()[-1] / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        saved.newest_checkpoint()


def test_a_missing_file_is_noticed(saved):
    (saved.checkpoints()[-1] / "state.pt").unlink()
    with pytest.raises(UserError, match=r"state\.pt is missing"):
        saved.newest_checkpoint()


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"step": 4}', '{"step": "x", "files": {}}', '{"files": 3}'])
def test_a_missing_or_damaged_manifest_is_noticed(saved, content):
    manifest = saved.checkpoints()[-1] / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is missing or damaged"):
        saved.newest_checkpoint()


def test_the_advice_leads_on(saved):
    """Deleting the damaged checkpoint, as the message says, makes the older one the newest."""
    (saved.checkpoints()[-1] / "state.pt").write_bytes(b"")
    with pytest.raises(UserError):
        saved.newest_checkpoint()
    shutil.rmtree(saved.checkpoints()[-1])
    assert saved.newest_checkpoint()[0] == 2


def test_a_state_cannot_carry_code(saved):
    """A checkpoint from somewhere else must not run anything when it is loaded."""
    path = saved.checkpoints()[-1]
    torch.save({"harmless": RunDirectory}, path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_state(path)
