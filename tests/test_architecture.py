"""The shape of the whole: who imports whom, what `trpd --help` costs, which files a clone must have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [ROOT / "trpd_agents", ROOT / "envs" / "trpd_envs"]
SHIPPED = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".jinja", ".html")


@pytest.fixture(autouse=True)
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_imports_go_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_credit_needs_only_torch_and_trajectory() -> None:
    graph = grimp.build_graph("trpd_agents", include_external_packages=True, cache_dir=None)
    credit = {"trpd_agents.credit", *graph.find_descendants("trpd_agents.credit")}
    imported = {target for module in credit for target in graph.find_modules_directly_imported_by(module)} - credit
    third_party = {
        name.split(".")[0] for name in imported if not name.startswith("trpd_agents")
    } - sys.stdlib_module_names
    assert third_party <= {"torch"}
    ours = {name for name in imported if name.startswith("trpd_agents")}
    assert ours <= {"trpd_agents.trajectory", "trpd_agents.counter_rng"}


def test_bundled_environments_need_only_gymnasium() -> None:
    graph = grimp.build_graph("trpd_envs", include_external_packages=True, cache_dir=None)
    outside = {name.split(".")[0] for name in graph.modules} - {"trpd_envs"} - sys.stdlib_module_names
    assert outside <= {"gymnasium", "numpy"}


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = (
        "import sys; from trpd_agents.cli import app\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output\n"
        "print([m for m in ('torch', 'transformers', 'scipy', 'textarena', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", "constraints.txt", ".ci/run"]
)
def test_files_every_clone_has(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_no_file_points_outside_the_project() -> None:
    # Spelled in two parts, so that this file does not match itself.
    forbidden = re.compile("|".join(["/wo" + "rk/", "/opt" + r"/v/", "/ho" + "me/", "/ro" + "ot/", "/tmp" + r"/\w"]))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, timeout=60
    )
    files = [ROOT / name for name in listed.stdout.splitlines()] if listed.returncode == 0 else list(ROOT.rglob("*"))
    texts = [file for file in files if file.is_file() and (file.suffix in SHIPPED or file.parent.name == ".ci")]
    assert len(texts) > 10
    found = {
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in texts
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if forbidden.search(line)
    }
    assert not found, "\n".join(sorted(found))


def test_every_module_says_what_it_is_for_and_stays_readable() -> None:
    silent, long = [], []
    for file in (file for package in PACKAGES for file in package.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if text.strip() and not text.startswith(('"""', 'r"""')):
            silent.append(str(file.relative_to(ROOT)))
        if len(text.splitlines()) > 400:
            long.append(str(file.relative_to(ROOT)))
    assert not silent and not long


def test_test_files_have_names_of_their_own() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
