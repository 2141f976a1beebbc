"""TRL's side: its `DistillationTrainer` with `tools`, held between two steps until the next one is asked for.

Runs in TRL's own virtual environment and imports nothing of this project. The clocks around the trainer's methods cost
microseconds; the methods themselves are TRL's.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from side import Side
from task import INSTRUCTIONS, Task, make_look, question
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import DistillationConfig, DistillationTrainer
from trl.chat_template_utils import qwen3_template


class Clocked(DistillationTrainer):
    """The trainer, with `seconds` by part and `counts` of the current step."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.start_step()

    def start_step(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.kl = 0.0

    def _timed(self, name: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        clock = time.perf_counter()
        result = method(*args, **kwargs)
        self.seconds[name] += time.perf_counter() - clock
        return result

    def _generate_single_turn(self, prompt_ids: list, *args: Any, **kwargs: Any) -> Any:
        self.counts["turns"] += len(prompt_ids)
        return self._timed("generate", super()._generate_single_turn, prompt_ids, *args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = self._timed("rollout", super()._generate_and_score_completions, inputs)
        completed = output["completion_mask"]
        self.counts["tokens"] += int(output["prompt_mask"].sum() + completed.sum())
        self.counts["action_tokens"] += int((completed * output.get("tool_mask", 1)).sum())
        return output

    def _get_last_hidden_state(self, *args: Any, **kwargs: Any) -> Any:
        name = "student forward" if torch.is_grad_enabled() else "teacher"
        return self._timed(name, super()._get_last_hidden_state, *args, **kwargs)

    def _compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._compute_loss(*args, **kwargs)
        self.kl += float(result[0].detach())
        return result


class Gate(TrainerCallback):
    """Reports every step and waits for the next one to be asked for."""

    def __init__(self, side: Side):
        self.side = side
        self.trainer: Clocked | None = None
        self.started = self.cpu_started = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.side.answer({"ready": True})

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        self.side.wait()
        self.trainer.start_step()
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        total, cpu = time.perf_counter() - self.started, time.process_time() - self.cpu_started
        spent = self.trainer.seconds
        phases = {
            "rollout, model": spent["generate"],
            "rollout, tools and text": spent["rollout"] - spent["generate"],
            "teacher": spent["teacher"],
            "update": total - spent["rollout"] - spent["teacher"],
        }
        self.side.answer(
            {
                "seconds": total,
                "cpu_seconds": cpu,
                "phases": phases,
                "counts": self.trainer.counts,
                "loss": self.trainer.kl,
            }
        )


def main() -> None:
    torch.set_num_threads(1)
    side = Side()
    task = side.task
    tokenizer = AutoTokenizer.from_pretrained(f"{task.models}/student", padding_side="left")
    tokenizer.response_template = qwen3_template  # how TRL reads calls of this grammar, whatever the chat template
    gate = Gate(side)
    with tempfile.TemporaryDirectory() as directory:
        trainer = Clocked(
            model=AutoModelForCausalLM.from_pretrained(f"{task.models}/student", dtype=torch.float32),
            teacher_model=AutoModelForCausalLM.from_pretrained(f"{task.models}/teacher", dtype=torch.float32),
            args=configuration(task, directory),
            train_dataset=Dataset.from_list([{"prompt": prompt(seed)} for seed in range(task.episodes)]),
            processing_class=tokenizer,
            tools=[make_look(task.answer_words)],
            callbacks=[gate],
        )
        trainer.remove_callback(PrinterCallback)
        gate.trainer = trainer
        trainer.train()


def prompt(seed: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question(seed)}]


def configuration(task: Task, directory: str) -> DistillationConfig:
    """The trainer's defaults, but for what has to equal our side's and for what would slow a small model on a CPU."""
    divisors = [n for n in range(1, task.episodes + 1) if task.episodes % n == 0]
    micro_batch = max((n for n in divisors if n * task.conversation_tokens <= task.trl_micro_batch), default=1)
    return DistillationConfig(
        output_dir=directory,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=task.episodes // micro_batch,
        max_steps=10**6,
        max_completion_length=task.conversation_tokens,  # of all turns together; never reached
        max_tool_calling_iterations=task.turns - 1,
        beta=1.0,  # reverse KL
        temperature=1.0,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
