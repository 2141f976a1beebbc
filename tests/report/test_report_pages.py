"""The report as files: complete, self-contained, small pieces, and nothing in it that a model smuggled in."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trpd_agents.errors import UserError
from trpd_agents.report import chunks, write_report


class Tags(HTMLParser):
    """Everything in a page that could run, load or lead somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found


def episodes_of(runs, report: Path, prefix: str = "a") -> list[dict]:
    """The episodes in the order of the index, through the chunks that it names."""
    index = runs.data_file(report, f"{prefix}/index")["columns"]
    return [
        runs.data_file(report, f"{prefix}/chunk-{chunk:04d}")["episodes"][place]
        for chunk, place in zip(index["chunk"], index["place"], strict=True)
    ]


def test_a_report_says_what_happened_to_every_token(runs, make_run) -> None:
    path = make_run()
    written = write_report(path)
    report = path / "report"
    assert written.index == report / "index.html" and written.episodes == 2 and not written.missing
    index = runs.data_file(report, "a/index")["columns"]
    assert (index["id"], index["success"], index["kept"]) == ([0, 1], [1, 0], [0.571, 0.571])
    episode = episodes_of(runs, report)[0]
    assert {k: turn["why"] for k, turn in enumerate(episode["turns"]) if turn["why"]} == runs.WHY
    assert episode["lines"] == {"enter": 0.5, "leave": 0.2} and episode["drawn"] == "divergence"
    tokens = episode["tokens"]
    assert (tokens["ls"][3], tokens["lt"][3]) == (-7000, -7420)
    assert tokens["policy"] == [1, 4, 0, 6, 1, 4]  # runs of equal weights
    assert tokens["alternatives"][:2] == [7, 8] and tokens["alternatives_lt"][0] == -500
    texts = runs.data_file(report, "a/vocabulary")["texts"]
    assert set(texts) == {"5", "6", "7", "8"}


def test_pages_load_nothing_from_elsewhere_and_forbid_it(make_run) -> None:
    path, other = make_run("run"), make_run("other")
    write_report(path, against=other)
    for name in ("index", "episodes", "compare"):
        page = path / "report" / f"{name}.html"
        found = tags(page)
        (policy,) = (a["content"] for t, a in found if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
        loaded = [a[key] for t, a in found for key in ("src", "href") if a.get(key) and not a[key].startswith("#")]
        assert loaded and all((path / "report" / target).exists() for target in loaded), loaded
        assert not any(name.startswith("on") or name == "style" for _, a in found for name in a)
        assert not re.search(r"<script(?![^>]* src=)", page.read_text())
    for script in (path / "report" / "assets").rglob("*.js"):
        if "uplot" not in str(script):
            assert not re.search(
                r"https?:|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script.read_text()
            )
    assert (path / "report" / "assets" / "uplot" / "LICENSE").read_text().startswith("The MIT License")


def test_what_a_model_wrote_cannot_leave_its_text(runs, make_run, monkeypatch) -> None:
    nasty = runs.make_episode(0, text=runs.NASTY, success=False)
    nasty.env_kwargs = {"name": runs.NASTY}
    failed = runs.make_episode(1, text=runs.NASTY, error=runs.NASTY)
    endings = {"before": runs.evaluation([True]) | {"endings": {runs.NASTY: 1}, "errors": {runs.NASTY: 1}}}
    path = make_run(stored={1: [nasty, failed]}, evaluations=endings)
    write_report(path)
    for file in [file for file in (path / "report").rglob("*.*") if "assets" not in file.parts]:
        text = file.read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\x1b\u202a-\u202e\u2066-\u2069]", text), file
        assert "<script>" not in text and "<img" not in text, file
    page = (path / "report" / "index.html").read_text()
    assert "&lt;script&gt;" in page and "{{7*7}}" in page and ">49<" not in page
    shown = episodes_of(runs, path / "report")[0]["turns"][0]
    assert shown["seen"].startswith("seen 0 {{7*7}}<script>") and "␛[31m" in shown["seen"]
    assert "⟨U+202E⟩" in shown["calls"][0][1]


def test_a_megabyte_in_one_action_is_cut(runs, make_run) -> None:
    path = make_run(stored={1: [runs.make_episode(0, text="y" * 1_000_000)]})
    write_report(path)
    (chunk,) = (path / "report" / "data" / "a").glob("chunk-*.js")
    assert chunk.stat().st_size < 30 * 21_000
    assert "more characters]" in episodes_of(runs, path / "report")[0]["turns"][0]["seen"]


def test_characters_spread_over_tokens_are_joined(runs, make_run, tokenizer) -> None:
    ids = tokenizer.encode("é", add_special_tokens=False)
    assert len(ids) == 2
    path = make_run(stored={1: [runs.make_episode(0, ids=ids), runs.make_episode(1, ids=[ids[0], 5])]})
    write_report(path)
    joined, broken = episodes_of(runs, path / "report")
    assert joined["turns"][0]["pieces"] == ["", "é"]
    assert "�" in "".join(broken["turns"][0]["pieces"])


def test_chunks_stay_small_and_none_is_lost(runs, make_run, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5_000)
    path = make_run(stored={step: [runs.make_episode(10 * step + k) for k in range(10)] for step in (1, 10)})
    write_report(path)
    files = sorted((path / "report" / "data" / "a").glob("chunk-*.js"))
    assert len(files) > 4 and max(file.stat().st_size for file in files) < 20_000
    assert len(episodes_of(runs, path / "report")) == 20
    assert runs.data_file(path / "report", "a/index")["columns"]["id"] == [*range(10, 20), *range(100, 110)]


def test_a_report_is_replaced_and_nothing_else_is(make_run, tmp_path) -> None:
    path = make_run()
    write_report(path)
    (path / "report" / "data" / "old.js").write_text("")
    write_report(path)
    assert not (path / "report" / "data" / "old.js").exists()
    assert not [entry for entry in path.iterdir() if entry.name.startswith(".")]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds something that is no report"):
        write_report(path, mine)
    assert (mine / "thesis.tex").read_text() == "x"


def test_a_place_that_cannot_be_written_is_named(make_run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to .*--out"):
        write_report(make_run(), tmp_path / "file" / "report")


def test_two_runs_are_paired_by_seed_and_part_at_a_turn(runs, make_run) -> None:
    a = [runs.make_episode(0), runs.make_episode(1, success=False), runs.make_episode(2, seed=77)]
    b = [runs.make_episode(5, seed=0), runs.make_episode(6, seed=1), runs.make_episode(7, seed=78)]
    b[1].turns[4].text = "something else"
    ended = runs.make_episode(8, seed=1, ratios=runs.LOG_RATIOS[:3])
    path = make_run("run", {1: [*a, runs.make_episode(3, seed=1)]})
    opd = runs.CONFIG.replace("preset: hysteresis", "preset: opd").replace(
        ", rule: {enter: 0.5, leave: 0.2, patience: 2}", ""
    )
    other = make_run("other", {1: [*b, ended]}, config=opd, evaluations={"after": runs.evaluation([False] * 40)})
    write_report(path, against=other)
    pairs = runs.data_file(path / "report", "pairs")
    assert pairs == {"a": [0, 1, 3], "b": [0, 1, 3], "turn": [7, 4, 3], "how": ["same", "acted", "ended"]}
    page = (path / "report" / "compare.html").read_text()
    assert "-1.000 [-1.000, -0.825]" in page and "credit.preset" in page
    assert 'href="compare.html"' in (path / "report" / "episodes.html").read_text()


# ---- bad input -----------------------------------------------------------------------------------


def test_what_is_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="is no directory; give the directory of a run"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"holds none of config\.yaml"):
        write_report(tmp_path / "photos")
    assert not list((tmp_path / "photos").iterdir())


def test_a_run_in_progress_is_shown_as_far_as_it_is(runs, make_run) -> None:
    path = make_run(rows=[runs.metrics(1), runs.metrics(2)], finished=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "epis')  # is being written just now
    (path / "evaluations.json").unlink()
    written = write_report(path)
    page = written.index.read_text()
    assert "had not finished" in page and "2 of 20" in page and not written.missing
    assert runs.data_file(path / "report", "run")["kl"]["x"] == [1, 2]


def test_a_run_that_has_only_begun(make_run) -> None:
    path = make_run(stored={}, rows=[], evaluations={}, finished=False)
    shutil.rmtree(path / "student")
    (path / "metrics.jsonl").unlink()
    written = write_report(path)
    assert written.episodes == 0
    assert [what.partition(":")[0] for what in written.missing] == ["metrics.jsonl", "trajectories/"]


def test_damage_is_named_and_the_rest_is_shown(runs, make_run) -> None:
    path = make_run(stored={step: [runs.make_episode(step)] for step in (1, 10, 20)})
    file = path / "trajectories" / "step-000010.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    (path / "evaluations.json").write_text('{"before": ')
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join([*lines[:4], "garbage", *lines[5:]]))
    (path / "student" / "tokenizer.json").write_text("{}")
    written = write_report(path)
    assert runs.data_file(path / "report", "a/index")["columns"]["id"] == [1, 20]
    said = "\n".join(written.missing)
    for part in ("step-000010.parquet cannot be read", "evaluations.json: cannot be read", "damaged from line 5 of 20"):
        assert part in said and part in written.index.read_text()
    assert "tokens are shown by their ids" in said
    assert runs.data_file(path / "report", "a/vocabulary")["texts"]["5"] == "⟨5⟩"
    assert episodes_of(runs, path / "report")[0]["turns"][0]["text"] == "done 0"  # which the tokens do not say then


def test_a_newer_version_is_said_to_be_one(runs, make_run, monkeypatch) -> None:
    config = runs.CONFIG + "quantum: true\n"
    path = make_run(stored={1: [runs.make_episode(1)]}, config=config)
    with monkeypatch.context() as newer:
        newer.setattr("trpd_agents.storage.SCHEMA", runs.newer_schema())
        runs.write_trajectories(path / "trajectories" / "step-000010.parquet", [runs.make_episode(2)])
    written = write_report(path)
    said = "\n".join(written.missing)
    assert "config.yaml" in said and "quantum" in said and "weights and reasons of tokens are not known" in said
    assert "has trajectory format 2; this version reads 1" in said
    (episode,) = episodes_of(runs, path / "report")
    assert episode["tokens"]["policy"] is None and episode["turns"][0]["state"] == "unknown"
    assert json.dumps(episode["tokens"]["lt"])  # the teacher's opinion is there all the same
