"""Runs made by hand for the report."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from transformers import PreTrainedTokenizerBase


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    """tests/report_runs.py."""
    spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).parents[1] / "report_runs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_run(runs: ModuleType, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[..., Path]:
    """`make_run(name, {step: episodes}, config=..., rows=..., evaluations=..., finished=...)`: a run's directory."""
    return partial(runs.make_run, tmp_path, tokenizer)
