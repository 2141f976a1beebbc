"""`trpd methods`: what it lists is what a recipe understands."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from trpd_agents.cli import app
from trpd_agents.config import parse_config
from trpd_agents.config.yaml_file import read_yaml
from trpd_agents.credit import KINDS, PRESETS, CreditConfig

RECIPE = read_yaml((Path(__file__).parents[2] / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["methods", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def shown(*arguments: str) -> CreditConfig:
    """The method that a recipe with the printed section has."""
    code, out, _ = run("show", *arguments)
    assert code == 0
    return parse_config({**RECIPE, **read_yaml(out)}).credit.method


def refused(*arguments: str) -> str:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and "Traceback" not in err
    return err


def test_every_method_is_listed_with_its_source() -> None:
    code, out, _ = run()
    lines = out.splitlines()[1:]
    assert code == 0 and len(lines) == len(PRESETS)
    for line, (name, preset) in zip(lines, PRESETS.items(), strict=True):
        assert line.startswith(f"{name} ") and preset.summary in line
        assert all(source in line for source in preset.sources)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_can_be_pasted_into_a_recipe(name: str) -> None:
    code, out, _ = run("show", name)
    assert code == 0 and f"credit:\n  preset: {name}\n" in out
    assert all(f"# https://arxiv.org/abs/{source}\n" in out for source in PRESETS[name].sources)
    written = read_yaml(out)["credit"]
    assert list(written) == ["preset", *KINDS] and all(next(iter(written[part])) == "kind" for part in KINDS)
    if PRESETS[name].config.guidance.kind == "none" or RECIPE["teacher"].get("kind", "local") == "local":
        assert shown(name) == PRESETS[name].config


@pytest.mark.parametrize(("part", "kind"), [(part, kind) for part, kinds in KINDS.items() for kind in kinds])
def test_every_part_can_be_changed_by_its_kind_alone(part: str, kind: str) -> None:
    changed = shown("opd", f"credit.{part}={kind}")
    assert getattr(changed, part) == KINDS[part][kind](**({"kind": kind} if part == "divergence" else {}))
    assert all(getattr(changed, other) == getattr(CreditConfig(), other) for other in KINDS if other != part)


def test_settings_are_explained_beside_their_values() -> None:
    _, out, _ = run("show", "tropd", "credit.outlier.top_k=32", "credit.rule.kind=occupancy", "credit.rule.budget=.inf")
    assert "    top_k: 32  # tokens\n" in out
    assert "    budget: .inf  # nats of log ratio" in out
    assert "    kind: tv  # `1 - mean min(rho, 1)`" in out


def test_mistakes_are_named() -> None:
    assert "no method is called 'trop'; did you mean 'tropd'?" in refused("show", "trop")
    assert "write credit.KEY=VALUE" in refused("show", "opd", "gate=soft")
    assert "credit.gate.kind: no gate is called 'sof'; did you mean 'soft'?" in refused(
        "show", "opd", "credit.gate=sof"
    )
    assert "wanted at most hysteresis.enter" in refused("show", "hysteresis", "credit.rule.leave=0.5")
    assert "leaky.enter: found -1.0, wanted a number >= 0" in refused("show", "prune-opd", "credit.rule.enter=-1")
    assert "unknown key" in refused("show", "opd", "credit.gates=soft")


@pytest.mark.parametrize("arguments", [["--help"], ["show", "--help"]])
def test_help_teaches_with_examples(arguments: list[str]) -> None:
    code, out, _ = run(*arguments)
    assert code == 0 and "Examples" in out and "trpd methods show" in " ".join(out.split())
