"""What the doctor says of the quickstart, and of the same run with one thing wrong with it.

    python benchmarks/doctor_faults.py --out benchmarks/results/doctor.md

The quickstart is examined as `trpd doctor` does. The faults are planted into a run of the two built-in base
models, which need no preparation; each is shown to the check that has to find it. Exit code 1 if one is not found.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from trpd_agents.config import RunConfig, load_config
from trpd_agents.doctor.alignment import ALIGNMENT
from trpd_agents.doctor.determinism import DETERMINISM
from trpd_agents.doctor.ends import ENDS
from trpd_agents.doctor.environment import ENVIRONMENT
from trpd_agents.doctor.episodes import BETTER, play_both
from trpd_agents.doctor.examine import SAMPLED, examine, open_run
from trpd_agents.doctor.finding import Finding, ask
from trpd_agents.doctor.sampler import SAMPLER
from trpd_agents.doctor.speakers import Language, language_of
from trpd_agents.doctor.subject import Subject
from trpd_agents.doctor.template import TEMPLATE
from trpd_agents.doctor.tokens import TOKENS
from trpd_agents.doctor.weights import WEIGHTS
from trpd_agents.preparation import Ready, subject_of
from trpd_agents.progress import Progress
from trpd_agents.textenv.checks.finding import Verdict

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "quickstart.yaml"
BARE = ("student.imitation=null", "teacher.imitation=null", "training.ranks=1")

SILENT = """
import gymnasium
from trpd_envs import Text

class Silent(gymnasium.Env):
    observation_space = action_space = Text(4000)
    max_turns = 2

    def reset(self, *, seed=None, options=None):
        self.turn = 0
        return "Say something.", {}

    def step(self, action):
        self.turn += 1
        return "Go on.", 0.0, False, self.turn >= 2, {}
"""


def load_faults() -> ModuleType:
    """tests/doctor/faults.py, from which the tests plant theirs."""
    spec = importlib.util.spec_from_file_location("doctor_faults", ROOT / "tests" / "doctor" / "faults.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planted(config: RunConfig, ready: Ready, faults: ModuleType) -> Iterator[tuple[str, Finding]]:
    """Each fault in words, and what the check says that it is meant for."""
    whole = subject_of(config, ready)
    whole.sampled = whole.play(SAMPLED)
    lm = ready.teachers[""]

    def language(student: Callable[[Any], Any] = lambda t: t, teacher: Callable[[Any], Any] = lambda t: t) -> Language:
        models = [
            replace(m, tokenizer=change(faults.twin(m).tokenizer))
            for m, change in ((ready.student, student), (lm, teacher))
        ]
        return language_of(
            config, models[0], {"": models[1]}, [(whole.sampled[0].instructions, whole.sampled[0].tools)]
        )

    def another(**parts: Any) -> Subject:
        changed = replace(whole, **parts)
        changed.sampled = changed.play(SAMPLED)
        return changed

    yield "teacher with another end token", ask(ENDS, language(teacher=faults.ends_otherwise))
    strips = faults.with_template(faults.STRIPS)
    yield "template that takes reasoning out of earlier turns", ask(TEMPLATE, language(student=strips))
    yield "template that forgets earlier turns", ask(TEMPLATE, language(student=faults.with_template(faults.LAST_TWO)))
    yield "two ids of the teacher's exchanged", ask(TOKENS, language(teacher=faults.permuted))
    yield "teacher off by one", ask(ALIGNMENT, another(teacher=faults.Late(lm)))
    yield "teacher that is not deterministic", ask(DETERMINISM, another(teacher=faults.Noisy(faults.twin(lm))))
    with mock.patch("trpd_agents.rollout.transformers_engine.sample", faults.truncated(0.9)):
        cut = another()
    yield "sampler with top-p 0.9", ask(SAMPLER, cut)
    yield "weights that are not delivered", ask(WEIGHTS, another(engine=faults.Undelivered(ready.student)))
    blind = replace(lm, model=faults.twin(lm).model)
    with torch.no_grad():
        blind.model.get_output_embeddings().weight.mul_(0.05)
    worse = Ready(ready.student, {"": blind}, ready.max_turns)
    worse.engine, worse.pool = ready.engine, ready.pool
    yield (
        "teacher worse than the student",
        ask(BETTER, play_both(subject_of(config, worse), worse, 32, Progress(quiet=True))),
    )
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "silent.py").write_text(SILENT)
        env = config.env.model_copy(update={"id": f"{file}:Silent", "kwargs": {}})
        finding = ask(ENVIRONMENT, config.model_copy(update={"env": env}))
        yield (
            "environment that never says who succeeded",
            replace(finding, found=finding.found.replace(folder + "/", "")),
        )


def _cell(text: str) -> str:
    """One line, without the folders of this machine."""
    return re.sub(r"/\S+/(?=[\w.]+)", "", " ".join(text.split())).replace("|", "\\|")


def table(heading: list[str], rows: list[list[str]]) -> str:
    cells = [heading, ["---"] * len(heading), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables here as well")
    parser.add_argument(
        "--faults-only", action="store_true", help="leave out the quickstart, whose models take minutes"
    )
    given = parser.parse_args()
    parts = []
    if not given.faults_only:
        findings = examine(load_config(RECIPE), progress=Progress())
        rows = [[f.check, str(f.verdict), f.found, f.wanted] for f in findings]
        parts.append("## The quickstart\n\n" + table(["check", "verdict", "found", "wanted"], rows))
    config = load_config(RECIPE, list(BARE))
    with ExitStack() as opened:
        ready = open_run(config, Progress(quiet=True), opened)
        found = list(planted(config, ready, load_faults()))
    rows = [[fault, f.check, str(f.verdict), f.found, f.fix] for fault, f in found]
    parts.append("## Planted faults\n\n" + table(["fault", "check", "verdict", "found", "what to do"], rows))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    return int(any(f.verdict not in (Verdict.WARNING, Verdict.ERROR) for _, f in found))


if __name__ == "__main__":
    sys.exit(main())
