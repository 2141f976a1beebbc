"""Every recipe in configs/ can be run: it loads, its environment plays, and its models are a pair."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import dump_config, load_config, parse_config
from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.preparation import check_models

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "study")  # those are not recipes


def test_there_is_a_quickstart():
    assert "quickstart.yaml" in [recipe.name for recipe in RECIPES]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run_accepts_it_and_writes_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", str(recipe), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_its_models_fit_and_it_survives_being_written_out(recipe):
    config = load_config(recipe)
    check_models(config)
    assert parse_config(read_yaml(dump_config(config))) == config
