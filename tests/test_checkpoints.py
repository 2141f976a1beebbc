"""A checkpoint that is there is whole, a damaged one is noticed and passed over, and the best is kept."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from trpd_agents.checkpoints import Checkpoints, save_state
from trpd_agents.errors import UserError
from trpd_agents.models import load_model


def save(checkpoints: Checkpoints, step: int, keep: int = 2) -> None:
    """A small one, with a file in a folder."""

    def write(folder: Path) -> None:
        save_state(folder, {"learner": {"steps": step}, "numbers": torch.arange(step)})
        (folder / "student").mkdir()
        (folder / "student" / "weights").write_bytes(bytes(range(200)) * step)

    checkpoints.save(step, write, keep, {"seed": step})


@pytest.fixture
def saved(tmp_path) -> Checkpoints:
    """Of steps 2 and 4."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (2, 4):
        save(checkpoints, step)
    return checkpoints


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_a_checkpoint_comes_back(tmp_path, make_lm):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None and checkpoints.set_aside_damaged() == []

    def write(folder: Path) -> None:
        make_lm(4).save(folder / "student")
        save_state(folder, {"learner": {"steps": 4}})

    checkpoints.save(4, write, 1, {"learner": {"lr": 0.1}})
    found = checkpoints.newest()
    assert (found.step, found.path.name, found.config) == (4, "step-000004", {"learner": {"lr": 0.1}})
    assert found.state() == {"learner": {"steps": 4}}
    loaded = load_model(str(found.path / "student")).model.state_dict()
    for name, tensor in make_lm(4).model.state_dict().items():
        assert torch.equal(loaded[name], tensor)


def test_only_the_newest_are_kept(saved):
    save(saved, 10)
    assert names(saved) == ["step-000004", "step-000010"]
    save(saved, 12, keep=1)
    assert names(saved) == ["step-000012"]


def test_the_best_is_kept_until_there_is_a_better_one(saved):
    saved.mark_best(2, 0.5)
    save(saved, 10)
    assert names(saved) == ["best.json", "step-000002", "step-000004", "step-000010"]
    saved.mark_best(10, 0.75)
    save(saved, 12)
    assert names(saved) == ["best.json", "step-000010", "step-000012"]
    save(saved, 14), save(saved, 16)
    assert names(saved) == ["best.json", "step-000010", "step-000014", "step-000016"] and saved.best() == (10, 0.75)
    saved.forget_best_after(10)
    assert saved.best() == (10, 0.75)
    saved.forget_best_after(9)
    assert saved.best() is None


def test_a_step_may_be_saved_again(saved):
    saved.save(4, lambda folder: save_state(folder, {"again": True}), 2, {})
    assert saved.newest().state() == {"again": True}
    assert names(saved) == ["step-000002", "step-000004"]


def test_a_checkpoint_that_was_never_finished_does_not_count(saved):
    half = saved.folder / ".step-000006.half"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert saved.newest().step == 4
    save(saved, 6)
    assert saved.newest().step == 6 and not half.exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_others_alone(saved):
    def write(folder: Path) -> None:
        (folder / "some").write_text("thing")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in (4, 6):
        with pytest.raises(OSError, match="No space left"):
            saved.save(step, write, 1, {})
        assert names(saved) == ["step-000002", "step-000004"] and saved.newest().step == 4


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    r"state\.pt is damaged: found \d+ bytes, hash": lambda path: flip(path / "state.pt"),
    r"student/weights is damaged: found 793 bytes, hash \w+, wanted 800 bytes": lambda path: os.truncate(
        path / "student" / "weights", 793
    ),
    r"state\.pt is missing": lambda path: (path / "state.pt").unlink(),
    r"manifest\.json is missing or damaged \(.*No such file": lambda path: (path / "manifest.json").unlink(),
    **{
        rf"manifest\.json is missing or damaged .*(?#{content})": lambda path, content=content: (
            path / "manifest.json"
        ).write_text(content)
        for content in ("", "{}", "[]", '{"step": 4}', '{"step": "x", "files": {}}', '{"files": 3}')
    },
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_said_to_be(saved, message):
    DAMAGES[message](saved.folder / "step-000004")
    assert saved.newest().step == 2
    (said,) = saved.set_aside_damaged()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(said)
    assert said.endswith("it is kept as damaged-step-000004, and the run goes on from step-000002")
    assert names(saved) == ["damaged-step-000004", "step-000002"] and saved.set_aside_damaged() == []
    save(saved, 3, keep=1)  # a damaged one must not be counted as the newest
    assert names(saved) == ["damaged-step-000004", "step-000003"]


def test_with_none_that_is_whole_the_run_is_refused(saved):
    for path in saved.all():
        flip(path / "state.pt")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole: .*step-000004: .*; .*step-000002: .*put back"):
        saved.newest()


def test_a_state_cannot_carry_code(saved):
    """A checkpoint from somewhere else must not run anything when it is loaded."""
    found = saved.newest()
    torch.save({"harmless": Checkpoints}, found.path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        found.state()
