"""Scores from disk are those that were computed, and nothing that has changed since is mistaken for them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from trpd_agents.config import HintedTeacherConfig, LocalTeacherConfig, OracleTeacherConfig
from trpd_agents.distributed import World
from trpd_agents.errors import UserError
from trpd_agents.models import LanguageModel, load_model
from trpd_agents.teacher import HintedTeacher, LocalTeacher, OracleTeacher, RoutedTeacher, Teacher
from trpd_agents.teacher.cached import CachedTeacher, cache_figures, model_identity, with_cache
from trpd_agents.teacher.score_files import ScoreFiles
from trpd_agents.textenv import EnvSpec
from trpd_agents.trajectory import Scores, Trajectory

NUMBERS = EnvSpec("GuessNumber-v0", {"high": 12})
HINTED = EnvSpec(f"{Path(__file__).with_name('hinting_env.py')}:Number", {"high": 12})
ASKED = {"top_k": 3, "entropy": True, "keep_hidden": True}
FIELDS = [field.name for field in dataclasses.fields(Scores)]


@pytest.fixture
def episodes(play) -> list[Trajectory]:
    return [play(NUMBERS, seed, [str(seed + 1), None]) for seed in range(4)]


class Counting:
    """A teacher that counts what it is asked."""

    engine = None

    def __init__(self, teacher: Teacher):
        self.teacher, self.asked = teacher, 0

    def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
        self.asked += len(trajectories)
        return self.teacher.score(trajectories)

    def log_distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.teacher.log_distribution(hidden)


def cached(teacher: Teacher, folder: Path, identity: str = "one", limit: int = 10**8, **more) -> CachedTeacher:
    return CachedTeacher(Counting(teacher), ScoreFiles(folder, limit), identity, **more)


def asked(teacher: CachedTeacher) -> int:
    assert isinstance(teacher.teacher, Counting)
    return teacher.teacher.asked


def assert_same(found: Sequence[Scores], wanted: Sequence[Scores]) -> None:
    for one, other in zip(found, wanted, strict=True):
        for name in FIELDS:
            left, right = getattr(one, name), getattr(other, name)
            if left is None or right is None:
                assert left is right, name
            elif isinstance(left, torch.Tensor):
                assert left.dtype == right.dtype and torch.equal(left, right)
            else:
                assert left.dtype == right.dtype and np.array_equal(left, right), name


@pytest.mark.parametrize("wanted", [{}, {"top_k": 2}, ASKED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_scored_once_is_read(make_lm, episodes, tmp_path, wanted, dtype) -> None:
    teacher = LocalTeacher(make_lm(1, dtype=dtype), **wanted)
    first, later = cached(teacher, tmp_path), cached(teacher, tmp_path)
    computed = first.score(episodes[:3])
    read = later.score([episodes[1], episodes[3], episodes[2]])
    assert_same([read[0], read[2]], [computed[1], computed[2]])
    assert_same([read[1]], teacher.score([episodes[3]]))
    assert (asked(first), asked(later)) == (3, 1)
    assert later.take_counts() == (2, 1) and later.take_counts() == (0, 0)
    if read[0].hidden is not None:
        assert torch.equal(later.log_distribution(read[0].hidden), teacher.log_distribution(computed[1].hidden))


def test_an_episode_without_turns_is_kept_as_well(make_lm, episodes, tmp_path) -> None:
    blank = dataclasses.replace(episodes[0], turns=[])
    teacher = cached(LocalTeacher(make_lm(1)), tmp_path)
    assert_same(teacher.score([blank]), teacher.score([blank]))
    assert asked(teacher) == 1


def test_other_tokens_or_positions_are_something_else(make_lm, episodes, tmp_path) -> None:
    teacher = cached(LocalTeacher(make_lm(1)), tmp_path)
    trajectory = episodes[0]
    teacher.score([trajectory])
    changed = trajectory.tokens.copy()
    changed[3] += 1
    shorter = [dataclasses.replace(turn, action=(turn.action[0], turn.action[1] - 1)) for turn in trajectory.turns]
    for other in ({"tokens": changed}, {"turns": trajectory.turns[:1]}, {"turns": shorter}):
        teacher.score([dataclasses.replace(trajectory, **other)])
    assert asked(teacher) == 4
    teacher.score([dataclasses.replace(trajectory, id=99, seed=7, reward=0.5)])  # what a model does not see
    assert asked(teacher) == 4


def test_a_model_is_known_by_its_weights_and_what_it_is_asked(make_lm, tmp_path) -> None:
    lm = make_lm(1)
    identity = model_identity(lm, ASKED)
    lm.save(tmp_path / "moved")
    assert model_identity(load_model(str(tmp_path / "moved")), ASKED) == identity
    assert model_identity(lm, {**ASKED, "top_k": 4}) != identity
    assert model_identity(make_lm(2), ASKED) != identity
    with torch.no_grad():
        next(iter(lm.model.parameters()))[0, 0] += 1e-6
    assert model_identity(lm, ASKED) != identity


def test_a_tokenizer_is_part_of_a_model(make_lm) -> None:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    lm = make_lm(1)
    assert model_identity(LanguageModel(lm.model, Other(), "x"), ASKED) != model_identity(lm, ASKED)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_computed_again_and_mended(make_lm, episodes, tmp_path, damage) -> None:
    teacher = cached(LocalTeacher(make_lm(1), **ASKED), tmp_path)
    wanted = teacher.score(episodes[:1])
    (file,) = tmp_path.glob("*/*.npz")
    stored = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(stored), 20) if damage in ("cut", "flip") else [0]:
        broken = bytearray(stored)
        broken[place] ^= 1 << int(rng.integers(8))
        text = {"cut": stored[:place], "flip": broken, "empty": b"", "other": b"not scores"}[damage]
        file.write_bytes(text)
        before = asked(teacher)
        assert_same(teacher.score(episodes[:1]), wanted)
        assert asked(teacher) == before + 1
        assert file.read_bytes() == stored


def test_the_folder_never_outgrows_its_bound_and_loses_what_was_not_asked_for_longest(make_lm, tmp_path) -> None:
    scores = Scores(np.arange(100), np.zeros(100, dtype=np.float32))
    probe = ScoreFiles(tmp_path / "probe", 10**6)
    probe.write("0" * 48, scores)
    (size,) = (f.stat().st_size for f in (tmp_path / "probe").rglob("*.npz"))
    limit = 100 * size
    files = ScoreFiles(tmp_path / "bound", limit)

    def key(i: int) -> str:
        return f"{i % 16:02x}{i:046d}"

    for i in range(160):
        files.write(key(i), scores)
        # file systems tell times in steps: make every file as old as its number
        written = tmp_path / "bound" / key(i)[:2] / f"{key(i)}.npz"
        os.utime(written, ns=(10**18 + i * 10**6, 10**18 + i * 10**6))
        assert files.read(key(0)) is not None  # asked for all the time
        assert sum(f.stat().st_size for f in (tmp_path / "bound").rglob("*") if f.is_file()) <= limit
    left = [i for i in range(160) if (tmp_path / "bound" / key(i)[:2] / f"{key(i)}.npz").exists()]
    assert left[0] == 0 and left[1:] == list(range(160 - len(left[1:]), 160)) and len(left) > 70
    files.write(key(999), Scores(np.arange(10_000), np.zeros(10_000, dtype=np.float32)))  # more than a fifth of it
    assert files.read(key(999)) is None and files.read(key(0)) is not None


def test_a_larger_folder_is_cut_down_when_it_is_opened(tmp_path) -> None:
    scores = Scores(np.arange(100), np.zeros(100, dtype=np.float32))
    files = ScoreFiles(tmp_path, 10**6)
    for i in range(20):
        files.write(f"{i:048d}", scores)
    (tmp_path / "00" / "left.npz.123.part").write_bytes(b"of a process that died")
    os.utime(tmp_path / "00" / "left.npz.123.part", (0, 0))
    total = sum(f.stat().st_size for f in tmp_path.rglob("*.npz"))
    ScoreFiles(tmp_path, total // 2)
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) <= total // 2
    assert not list(tmp_path.rglob("*.part"))


def _write_and_read(folder: str, worker: int, queue: multiprocessing.Queue) -> None:
    files = ScoreFiles(Path(folder), 150_000)
    wrong = 0
    for i in range(200):
        value = i % 50
        found = files.read(f"{value:048d}")
        if found is None:
            files.write(f"{value:048d}", Scores(np.arange(50), np.full(50, value, dtype=np.float32)))
        else:
            wrong += not (found.lt == value).all()
    queue.put((worker, wrong))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starting Python anew takes too long")
def test_two_processes_share_a_folder(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_write_and_read, args=(str(tmp_path), n, queue)) for n in range(2)]
    for worker in workers:
        worker.start()
    results = sorted(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert results == [(0, 0), (1, 0)]
    assert not list(tmp_path.rglob("*.part"))
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) <= 150_000


def test_figures_of_all_caches_in_a_teacher(make_lm, episodes, tmp_path) -> None:
    one, two = cached(LocalTeacher(make_lm(1)), tmp_path, "one"), cached(LocalTeacher(make_lm(2)), tmp_path, "two")
    routed = RoutedTeacher({"a": one, "b": two}, lambda _: "a")
    assert cache_figures(World(), routed) == {"teacher_cache_hits": 0, "teacher_cache_misses": 0}
    routed.score(episodes)
    two.score(episodes)
    one.score(episodes[:1])
    assert cache_figures(World(), routed) == {"teacher_cache_hits": 1, "teacher_cache_misses": 8}
    assert cache_figures(World(), LocalTeacher(make_lm(1))) == {}


def test_scores_that_are_not_numbers_are_not_kept(make_lm, episodes, tmp_path) -> None:
    class Broken(Counting):
        def score(self, trajectories: Sequence[Trajectory]) -> list[Scores]:
            found = super().score(trajectories)
            found[0].lt[0] = np.nan
            return found

    teacher = CachedTeacher(Broken(LocalTeacher(make_lm(1))), ScoreFiles(tmp_path, 10**8), "one")
    teacher.score(episodes[:2])
    assert len(list(tmp_path.rglob("*.npz"))) == 1


def test_a_hinted_teacher_is_asked_again_when_the_hint_is_another(make_lm, tokenizer, play, tmp_path) -> None:
    section = HintedTeacherConfig(cache=str(tmp_path))
    teacher = with_cache(HintedTeacher(make_lm(1)), section, {}, tokenizer=tokenizer)
    plain = with_cache(
        LocalTeacher(make_lm(1)), LocalTeacherConfig(model="x", cache=str(tmp_path)), {}, tokenizer=tokenizer
    )
    assert isinstance(teacher, CachedTeacher) and isinstance(plain, CachedTeacher)
    trajectory = play(HINTED, 3, ["1"])
    other = dataclasses.replace(trajectory, hint="The secret number is 99.")
    (first, again, moved) = (teacher.score([t])[0] for t in (trajectory, trajectory, other))
    assert teacher.take_counts() == (1, 2)
    assert_same([first], [again])
    assert np.abs(first.lt - moved.lt).max() > 1e-4
    plain.score([trajectory])
    assert plain.take_counts() == (0, 1)


def test_an_oracle_is_asked_again_when_the_episode_is_another(tokenizer, play, tmp_path) -> None:
    def opened(uniform: float) -> CachedTeacher:
        oracle = OracleTeacher(tokenizer, len(tokenizer), uniform=uniform, **ASKED)
        section = OracleTeacherConfig(cache=str(tmp_path), uniform=uniform)
        teacher = with_cache(oracle, section, ASKED, tokenizer=tokenizer)
        assert isinstance(teacher, CachedTeacher)
        return teacher

    episode = play(NUMBERS, 0, ["1", None])
    first, same, other = opened(0.1), opened(0.1), opened(0.2)
    computed = first.score([episode])
    assert_same(same.score([episode]), computed)
    assert same.take_counts() == (1, 0)
    other.score([episode])
    assert other.take_counts() == (0, 1)
    wider = dataclasses.replace(episode, env_kwargs={"high": 12, "max_turns": 7})
    same.score([wider])
    assert same.take_counts() == (0, 1)


def test_no_cache_unless_asked_for_and_no_folder_that_cannot_be_written_to(make_lm, tokenizer, tmp_path) -> None:
    teacher = LocalTeacher(make_lm(1))
    assert with_cache(teacher, LocalTeacherConfig(model="x"), {}, tokenizer=tokenizer) is teacher
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"teacher\.cache=.*file: wanted a folder to write to, found"):
        with_cache(teacher, LocalTeacherConfig(model="x", cache=str(tmp_path / "file")), {}, tokenizer=tokenizer)


def test_a_full_disk_costs_the_entry_and_not_the_run(make_lm, episodes, tmp_path, monkeypatch) -> None:
    teacher = cached(LocalTeacher(make_lm(1)), tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        wanted = teacher.score(episodes)
    assert_same(teacher.score(episodes), wanted)
    assert asked(teacher) == 8
