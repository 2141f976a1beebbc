"""The time of a multi-turn distillation step, against TRL's `DistillationTrainer` with `tools`, side by side.

    python benchmarks/against_trl.py --trl-python ~/trl/bin/python --out benchmarks/results/against_trl.md

Each side is a process of its own with one thread, TRL's in its own virtual environment. Both load the same two models
and play the same tool, and take one step each in turn, so that whatever else the machine does falls on both. A step
counts only if both sides handled exactly the same numbers of turns, of sampled tokens and of tokens altogether.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import trpd_agents
from trpd_agents.batching import CPU_BUDGET

HELPERS = Path(__file__).parent / "against_trl"
sys.path.append(str(HELPERS))

from lookup_env import Lookup  # noqa: E402
from models import CONTEXT, make_models  # noqa: E402
from task import Task  # noqa: E402

PHASES = ("rollout, model", "rollout, tools and text", "teacher", "update", "rest")
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
LEAST_TRL = "1.16.0"  # what this was written against; earlier trainers may have no tools

PROBE = """
import inspect, json, torch, transformers, trl
found = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
try:
    from trl import DistillationTrainer
    found["tools"] = "tools" in inspect.signature(DistillationTrainer.__init__).parameters
    from trl.chat_template_utils import qwen3_template
except ImportError as error:
    found["missing"] = str(error)
print(json.dumps(found))
"""


class Refused(Exception):
    """Nothing can be measured; the message says what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="interpreter of TRL's virtual environment (default: $TRL_PYTHON)")
    parser.add_argument("--turns", type=positive, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=positive, default=3, help="steps of each side that count")
    parser.add_argument("--episodes", type=positive, default=32, help="in one step")
    parser.add_argument("--action-tokens", type=positive, default=16, help="sampled in one turn")
    parser.add_argument("--answer-words", type=positive, default=5, help="that the tool answers with")
    parser.add_argument(
        "--trl-micro-batch", type=positive, default=16_384, metavar="TOKENS", help="at most so many in one of TRL's"
    )
    parser.add_argument("--out", type=Path, help="also write the tables into this Markdown file")
    arguments = parser.parse_args()
    try:
        table = compare(arguments)
    except Refused as refusal:
        sys.exit(f"error: {refusal}")
    print(f"\n{table}")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(table, encoding="utf-8")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 wanted, found {text!r}")
    return int(text)


def compare(arguments: argparse.Namespace) -> str:
    """Measure everything that `arguments` ask for; the report as Markdown."""
    python = arguments.trl_python or os.environ.get("TRL_PYTHON")
    versions = probe(python)
    with tempfile.TemporaryDirectory() as models:
        try:
            sizes = make_models(Path(models), Lookup.tools, arguments.action_tokens, arguments.answer_words)
        except ValueError as error:
            raise Refused(f"--action-tokens: {error}") from None
        tasks = [
            Task(
                models=models,
                turns=turns,
                episodes=arguments.episodes,
                action_tokens=arguments.action_tokens,
                answer_words=arguments.answer_words,
                prompt_tokens=sizes["prompt_tokens"],
                observation_tokens=sizes["observation_tokens"],
                trl_micro_batch=arguments.trl_micro_batch,
            )
            for turns in arguments.turns
        ]
        for task in tasks:
            if task.conversation_tokens > CONTEXT:
                raise Refused(
                    f"--turns {task.turns}: a conversation would have {task.conversation_tokens} tokens, wanted at "
                    f"most {CONTEXT}, the models' context: take fewer turns, action tokens or answer words"
                )
        results = []
        for task in tasks:
            results.append(measure(task, python, arguments.rounds))
            print(row(results[-1]), flush=True)
    return report(results, versions, sizes, arguments)


def probe(python: str | None) -> dict[str, str]:
    """Versions in TRL's environment.

    Raises:
        Refused: no interpreter, or none that can run the comparison.
    """
    how = (
        "make it so, with the versions that this side has, and try again:\n"
        "  python3 -m venv ~/trl\n"
        f"  ~/trl/bin/pip install torch=={torch.__version__.split('+')[0]} transformers=={transformers.__version__} "
        f"'trl>={LEAST_TRL}'\n"
        "  export TRL_PYTHON=~/trl/bin/python"
    )
    if not python:
        raise Refused(
            f"TRL runs in a virtual environment of its own, and neither --trl-python nor TRL_PYTHON names it; {how}"
        )
    try:
        run = subprocess.run(
            [os.path.expanduser(python), "-c", PROBE], capture_output=True, text=True, env={**os.environ, **QUIET}
        )
    except OSError as error:
        raise Refused(f"{python} cannot be run ({error.strerror}); {how}") from None
    if run.returncode != 0:
        raise Refused(f"{python} cannot import torch, transformers and trl ({last_line(run.stderr)}); {how}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    if "missing" in found or not found["tools"]:
        why = found.get("missing", "its DistillationTrainer takes no tools")
        raise Refused(f"{python} has trl {found['trl']}, wanted at least {LEAST_TRL}: {why}; {how}")
    return {name: found[name] for name in ("trl", "torch", "transformers")}


class Process:
    """One side, started with a task; it computes only between `step` and its answer."""

    def __init__(self, name: str, python: str, task: Task):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [os.path.expanduser(python), str(HELPERS / f"{name}.py"), json.dumps(task.to_dict())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **ONE_THREAD, **QUIET},
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = self._errors.read()[-3000:]
            raise Refused(f"{self.name}.py ended with code {self._process.returncode}; its last words:\n{words}")
        return dict(json.loads(line))

    def step(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self._process.kill()  # it has nothing to save
        self._process.wait()
        self._errors.close()


def measure(task: Task, python: str | None, rounds: int) -> dict[str, Any]:
    """`rounds` steps of each side, alternating, after one of each that does not count."""
    assert python is not None
    sides = [Process("ours", sys.executable, task), Process("theirs", python, task)]
    try:
        for side in sides:
            side.answer()  # ready
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for number in range(rounds + 1):
            for side in sides:
                found[side.name].append(side.step())
                wall, cpu = (found[side.name][-1][what] for what in ("seconds", "cpu_seconds"))
                said = f"turns {task.turns}, round {number}, {side.name}: {wall:.2f} s, of the processor {cpu:.2f} s"
                print(said, file=sys.stderr, flush=True)
            check_counts(task, *(found[side.name][-1]["counts"] for side in sides))
    finally:
        for side in sides:
            side.close()
    return {"task": task, **{name: steps[1:] for name, steps in found.items()}}


def check_counts(task: Task, ours: dict[str, int], theirs: dict[str, int]) -> None:
    """Raise `Refused` unless both sides did the same amount of work, and what was asked for."""
    turns = task.turns * task.episodes
    wanted = {
        "turns": turns,
        "action_tokens": turns * task.action_tokens,
        "tokens": task.episodes * task.conversation_tokens,
    }
    if not ours == theirs == wanted:
        raise Refused(
            f"with {task.turns} turns the sides did not do the same work: wanted {wanted}, found {ours} here and "
            f"{theirs} in TRL. A call that did not end where it should is possible, once in some ten thousand steps: "
            "run it again; if it stays, the sides render conversations differently"
        )


def ratios(result: dict[str, Any], what: str = "seconds") -> list[float]:
    """TRL's time over ours, round by round."""
    return [theirs[what] / ours[what] for ours, theirs in zip(result["ours"], result["theirs"], strict=True)]


def row(result: dict[str, Any]) -> str:
    task, counts = result["task"], result["ours"][0]["counts"]
    columns = [str(task.turns), f"{counts['tokens']:,}", f"{counts['action_tokens']:,}"]
    for name in ("ours", "theirs"):
        seconds = [step["seconds"] for step in result[name]]
        columns.append(f"{statistics.median(seconds):.2f} ({min(seconds):.2f})")
    each = ratios(result)
    least = [min(step["seconds"] for step in result[name]) for name in ("ours", "theirs")]
    columns += [f"**{statistics.median(each):.2f}**", f"{min(each):.2f} to {max(each):.2f}"]
    columns += [f"{least[1] / least[0]:.2f}", f"{statistics.median(ratios(result, 'cpu_seconds')):.2f}"]
    return "| " + " | ".join(columns) + " |"


def phase_rows(result: dict[str, Any]) -> list[str]:
    lines = []
    for name, title in (("ours", "trpd-agents"), ("theirs", "TRL")):
        spent = [[step["phases"].get(phase) for step in result[name]] for phase in PHASES]
        medians = [f"{statistics.median(times):.2f}" if None not in times else "in update" for times in spent]
        loss = statistics.mean(step["loss"] for step in result[name])
        lines.append("| " + " | ".join([str(result["task"].turns), title, *medians, f"{loss:.4f}"]) + " |")
    return lines


def report(
    results: list[dict[str, Any]], versions: dict[str, str], sizes: dict[str, int], arguments: argparse.Namespace
) -> str:
    """Both tables, the machine, and what is equal and what is not."""
    ours = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = [
        "# A distillation step against TRL",
        "",
        f"Measured {time.strftime('%Y-%m-%d')} on {processor()}, {os.cpu_count()} cores, one thread for each side, "
        f"Python {platform.python_version()}.",
        f"trpd-agents {trpd_agents.__version__} (torch {ours['torch']}, transformers {ours['transformers']}) against "
        f"TRL {versions['trl']} (torch {versions['torch']}, transformers {versions['transformers']}).",
        f"Load of the machine over the last minute, at the end: {os.getloadavg()[0]:.1f}.",
        "",
        f"    python benchmarks/against_trl.py {shlex.join(told(arguments))}",
        "",
        f"Seconds for one optimiser step on {arguments.episodes} episodes: median (minimum) of {arguments.rounds} "
        "alternating rounds. Ratio: TRL's time over ours, its median and range over the rounds, that of the minima, "
        "and the median in CPU seconds of the processes, which other jobs on the machine disturb less.",
        "",
        "| turns | tokens | of them sampled | trpd-agents, s | TRL, s | ratio | range | of minima | of CPU time |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(result) for result in results),
        "",
        "Where the time goes, medians in seconds, and the reverse KL in nats per token that each side reports:",
        "",
        f"| turns | side | {' | '.join(PHASES)} | loss |",
        "|" + "---|" * (len(PHASES) + 3),
        *(line for result in results for line in phase_rows(result)),
        "",
        *notes(sizes, arguments, ours == {name: versions[name] for name in ours}),
    ]
    return "\n".join(lines) + "\n"


def told(arguments: argparse.Namespace) -> list[str]:
    """The command line again, without paths that mean something on this machine only."""
    return [
        *["--trl-python", "TRL/bin/python", "--turns", *map(str, arguments.turns), "--rounds", str(arguments.rounds)],
        *["--episodes", str(arguments.episodes), "--action-tokens", str(arguments.action_tokens)],
        *["--answer-words", str(arguments.answer_words), "--trl-micro-batch", str(arguments.trl_micro_batch)],
    ]


def notes(sizes: dict[str, int], arguments: argparse.Namespace, same_libraries: bool) -> list[str]:
    """What was done to make the sides comparable, and what still favours one of them."""
    return [
        "Equal on both sides, and checked in every step: turns, sampled tokens, tokens altogether. Equal by "
        f"construction: the weights (student and teacher, {sizes['parameters'] / 1e6:.2f} M parameters each), the "
        f"tokenizer and chat template, the tool and its answers, {sizes['prompt_tokens']} tokens of prompt, "
        f"{arguments.action_tokens} sampled tokens a turn, {sizes['observation_tokens']} tokens between two actions, "
        "fp32, sampling at temperature 1 from the whole distribution, the exact reverse KL over the vocabulary, AdamW "
        "at the same learning rate, gradient clipping at 1, one optimiser step for all episodes, no "
        "activation checkpointing. The losses agree to within sampling noise. Micro-batches have at most "
        f"{CPU_BUDGET:,} tokens here, as by default on a CPU, and {arguments.trl_micro_batch:,} in TRL.",
        "",
        "The models write a valid call of exactly that length because their embeddings were laid out so, not because "
        "anything forces them while they sample; neither side pays for it.",
        "",
        "Where this favours TRL: every turn of every episode has the same length, so its batch never waits for a "
        "straggler and is never padded. The prompt is short; a longer one would be encoded again at every turn. "
        "Activation checkpointing, which it has on by default, its progress bar, logging, checkpoints and model card "
        "are off, and its data loader is outside its clock, while the time of trpd-agents is that of the whole "
        "training loop, with the metrics that it writes at every step, its comparison of sampler and trainer, and a "
        "call of the tool after the last turn that TRL does not make.",
        "",
        "Where this goes against TRL: it samples through transformers' `generate`; with vLLM, whose prefix cache does "
        "not encode a conversation again at every turn, its later turns would cost less. Without vLLM that is how its "
        "tool loop works, and it stays in. On a CPU its loss projects all positions of a completion to the "
        "vocabulary, not only the sampled ones as on a GPU, and it computes the student's entropy for its log. Its "
        "micro-batches have to divide the episodes evenly, so they may be smaller than the limit.",
        *([] if same_libraries else ["", "The two environments hold different versions of torch or transformers."]),
    ]


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


if __name__ == "__main__":
    main()
