"""`trpd view`: the same episodes and reasons as in the report, in a terminal that a model cannot take over."""

from __future__ import annotations

import json
import re
import sys
import threading

from typer.testing import CliRunner

from trpd_agents.cli import app


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["view", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_lists_episodes_and_failures_among_them(make_run) -> None:
    path = make_run()
    code, out, _ = run(path)
    assert code == 0 and out.splitlines()[-1].startswith("2 of 2 stored episodes")
    assert re.search(r"^0 +1 +0 +success +terminated +7 +3 +0\.57", out, re.MULTILINE)
    _, out, _ = run(path, "--failed")
    assert "failure" in out and " success " not in out and "1 of 2 stored episodes" in out


def test_an_episode_is_read_with_its_reasons(runs, make_run) -> None:
    code, out, _ = run(make_run(), "--episode", 1)
    assert code == 0 and "episode 1: failure (terminated)" in out
    for k, why in runs.WHY.items():
        assert f"turn {k}: masked: {why}" in out
    assert "turn 2" in out and "[refused]" in out and "seen 6 done" in out


def test_what_a_model_wrote_stays_text(runs, make_run) -> None:
    text = runs.NASTY + " [bold]not markup[/bold]"
    path = make_run(stored={1: [runs.make_episode(0, text=text), runs.make_episode(1, text=text, error=runs.NASTY)]})
    for arguments in ((), ("--episode", 0), ("--episode", 1)):
        _, out, _ = run(path, *arguments)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", out)
    _, out, _ = run(path, "--episode", 0)
    assert "[bold]not markup[/bold]" in out and "␛[31m" in out


def test_updates_and_episodes_that_are_not_there_are_refused(make_run) -> None:
    path = make_run()
    assert run(path, "--step", 7)[::2] == (2, "error: --step 7: this update was not stored; stored are: 1\n")
    code, _, err = run(path, "--episode", 99)
    assert code == 2 and "--episode 99: no stored episode has this number" in err
    code, _, err = run(path, "--follow", "--step", 1)
    assert code == 2 and "--follow goes on with what is new" in err


def test_following_shows_new_updates_until_the_run_is_over(runs, make_run, monkeypatch) -> None:
    path = make_run(finished=False)
    monkeypatch.setattr(sys.modules["trpd_agents.cli.view"], "_POLL", 0.05)

    def goes_on() -> None:
        runs.write_trajectories(path / "trajectories" / "step-000010.parquet", [runs.make_episode(42)])
        (path / "summary.json").write_text(json.dumps({"seconds": {}}))

    later = threading.Timer(0.5, goes_on)
    later.start()
    code, out, _ = run(path, "--follow")
    later.join()
    assert code == 0 and "42" in out and "3 of 3 stored episodes" in out


def test_damage_is_named_and_the_rest_is_shown(runs, make_run) -> None:
    path = make_run(stored={1: [runs.make_episode(1)], 10: [runs.make_episode(2)]})
    file = path / "trajectories" / "step-000001.parquet"
    file.write_bytes(b"PAR1")
    code, out, err = run(path)
    assert code == 0 and "1 of 1 stored episodes" in out and "not shown: " in err and "step-000001.parquet" in err
    assert run(path, "--episode", 2)[0] == 0


def test_without_a_tokenizer_the_text_is_shown_all_the_same(make_run) -> None:
    path = make_run()
    (path / "student" / "tokenizer.json").unlink()
    _, out, err = run(path, "--episode", 0)
    assert "done 3 ⟨5⟩⟨6⟩" in out and "tokens are shown by their ids" in err
