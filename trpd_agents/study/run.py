"""Running a study: every job once, as many at a time as asked for, each as soon as what it needs is there.

A job that fails is told and left; the others go on, and so does a later call with the same directory, from where this
one stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from trpd_agents.config import RunConfig, dump_config
from trpd_agents.config.yaml_file import write_yaml
from trpd_agents.errors import UserError
from trpd_agents.interrupt import Interrupted, stop_on_signal
from trpd_agents.preparation import check_models
from trpd_agents.study.config import StudyConfig
from trpd_agents.study.plan import Member, ModelJob, Plan, make_plan, short_hash
from trpd_agents.study.pool import Ended, Pool
from trpd_agents.study.rates import choose_rate
from trpd_agents.study.store import NotThere, StudyDirectory
from trpd_agents.study.work import is_made
from trpd_agents.textenv import EnvSpec
from trpd_agents.textenv.preflight import check_environment

Say = Callable[[str], None]


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    jobs: int | None = None,
    only: str | None = None,
    say: Say = lambda text: print(text, flush=True),
) -> dict[str, str]:
    """Run what is not finished yet, and return what failed: name -> error.

    Args:
        out: the study's directory; an existing one is continued.
        jobs: members at a time; by default as many as there are cores.
        only: a pattern on `environment/teacher/method/seed`; what those members need is run too.

    Raises:
        UserError: a member that cannot be run, or one finished with other settings, before anything runs.
        Interrupted: by Ctrl-C or SIGTERM, after the running members have saved.
    """
    plan = make_plan(study)
    wanted = _wanted(plan, only)
    directory = StudyDirectory(out)
    _refuse_stale(plan, directory, wanted)
    _preflight(plan, wanted)
    with directory.lock() as held:
        (out / "study.yaml").write_text(write_yaml(study.model_dump(mode="json")), encoding="utf-8")
        pool = Pool(jobs or os.cpu_count() or 1, (held,))
        running = _Running(study, plan, directory, wanted, pool, say)
        with stop_on_signal(say):
            try:
                running.run()
            except KeyboardInterrupt:
                running.stop()
                raise Interrupted("stopped; the same command goes on from here") from None
            finally:
                pool.close()
    return {name: error for name, error in running.failed.items() if name in wanted}


class _Running:
    """Where a study stands: `done` and `failed` together are the jobs that have ended."""

    def __init__(
        self, study: StudyConfig, plan: Plan, directory: StudyDirectory, wanted: set[str], pool: Pool, say: Say
    ):
        self.study, self.plan, self.directory, self.pool, self.say = study, plan, directory, pool, say
        self.done = {name for name in wanted if directory.finished(plan.jobs[name])} - _lost_models(
            plan, directory, wanted
        )
        self.failed: dict[str, str] = {}
        self.waiting = [name for name in plan.jobs if name in wanted and name not in self.done]
        self.members = sum(isinstance(plan.jobs[name], Member) for name in wanted)
        self.started: dict[str, float] = {}
        self.spent: list[float] = []  # seconds of the members that ran here

    def run(self) -> None:
        before = self._members_ended()
        if before:
            self.say(f"{before} of {self.members} members were finished before")
        while self.waiting or self.pool.running:
            self._start_what_can_start()
            if self.pool.running:
                for ended in self.pool.wait():
                    self._settle(ended)

    def stop(self) -> None:
        """Let the running members save what they have."""
        if not self.pool.running:
            return
        self.say(f"stopping: {len(self.pool.running)} running members save and end; once more to end them at once")
        self.pool.ask_to_stop()
        try:
            while self.pool.running:
                for ended in self.pool.wait():
                    if ended.status == "done":
                        self._settle(ended)
        except KeyboardInterrupt:
            self.say("ended at once; what was not saved is run again")

    def _start_what_can_start(self) -> None:
        for name in list(self.waiting):
            if not self.pool.free:
                return
            job = self.plan.jobs[name]
            if any(needed not in self.done and needed not in self.failed for needed in job.needs):
                continue
            self.waiting.remove(name)
            try:
                payload = self._payload(job)
            except NotThere as reason:
                self._settle(Ended(name, "failed", str(reason)))
                continue
            self.started[name] = time.monotonic()
            self.pool.start(name, payload)

    def _payload(self, job: Member | ModelJob) -> Mapping[str, object]:
        """What a worker needs to know. Raises `NotThere` if the job cannot be run for another's failure."""
        log = str(self.directory.log(job))
        if isinstance(job, ModelJob):
            file = str(self.directory.model_file(job.name))
            return {
                "kind": "model",
                "who": job.who,
                "config": job.config.model_dump(mode="json"),
                "file": file,
                "log": log,
            }
        for who, name in job.models.items():
            if name in self.failed:
                raise NotThere(f"there is no {who}: {self.failed[name]}")
        rate = choose_rate(job, self.plan, self.directory) if job.candidates else None
        share = None
        if job.share_of is not None:
            if job.share_of in self.failed:
                raise NotThere(f"the kept share of {job.share_of}, which failed, is not known")
            share = self.directory.kept_share(self._member(job.share_of))
            if share != share:
                raise NotThere(f"{job.share_of} sampled no token, so it has no kept share to match")
        config = job.configure(rate, share)
        told = {
            "environment": job.environment,
            "teacher": job.teacher,
            "method": job.method,
            "seed": job.seed,
            "asked": job.asked,
            "config": short_hash(dump_config(config)),
            "settings": _settings(config, share),
        }
        return {
            "kind": "member",
            "config": config.model_dump(mode="json"),
            "folder": str(self.directory.folder(job)),
            "told": told,
            "keep_models": self.study.keep_models,
            "log": log,
        }

    def _settle(self, ended: Ended) -> None:
        job = self.plan.jobs[ended.job]
        if ended.status == "done":
            self.done.add(ended.job)
            self.directory.set_failure(ended.job, None)
        else:
            self.failed[ended.job] = ended.error or "it was stopped from outside"
            self.directory.set_failure(ended.job, self.failed[ended.job])
        seconds = time.monotonic() - self.started.pop(ended.job, time.monotonic())
        if isinstance(job, Member) and ended.status == "done":
            self.spent.append(seconds)
        self.say(self._line(job, seconds))

    def _line(self, job: Member | ModelJob, seconds: float) -> str:
        if job.name in self.failed:
            first = self.failed[job.name].splitlines()[0]
            return f"{self._count(job)}{job.name}  FAILED: {first}; its log: {self.directory.log(job)}"
        if isinstance(job, ModelJob):
            rate = (self.directory.model(job.name) or {})["success_rate"]
            return f"{job.name}  success {rate:.3f}, {seconds:.0f} s"
        evaluations = self.directory.evaluations(job)
        before = self.directory.model(job.models["student"]) or {}
        change = f"success {before['success_rate']:.3f} -> {evaluations['after']['success_rate']:.3f}"
        kept = f"kept {self.directory.kept_share(job):.2f}"
        return f"{self._count(job)}{job.name}  {change}  {kept}  {seconds:.0f} s{self._left()}"

    def _count(self, job: Member | ModelJob) -> str:
        return f"[{self._members_ended()}/{self.members}] " if isinstance(job, Member) else ""

    def _left(self) -> str:
        left = self.members - self._members_ended()
        if not left or not self.spent:
            return ""
        minutes = left * sum(self.spent) / len(self.spent) / min(self.pool.size, left) / 60
        return f"  about {minutes:.0f} min left" if minutes >= 1 else "  less than a minute left"

    def _members_ended(self) -> int:
        return sum(isinstance(self.plan.jobs[name], Member) for name in [*self.done, *self.failed])

    def _member(self, name: str) -> Member:
        job = self.plan.jobs[name]
        assert isinstance(job, Member)
        return job


def _lost_models(plan: Plan, directory: StudyDirectory, wanted: set[str]) -> set[str]:
    """Starts and teachers that members still need, and that the cache has not got any more.

    They are made again first: members that find none would each make their own, several at the same time.
    """
    ahead = (job for name in wanted if isinstance(job := plan.jobs[name], Member) and not directory.finished(job))
    needed = {name for member in ahead for name in member.models.values()}
    return {name for name in needed if isinstance(job := plan.jobs[name], ModelJob) and not is_made(job)}


def _settings(config: RunConfig, share: float | None) -> str:
    """A hash of what should be the same for all seeds of a method in one place."""
    data = config.model_dump(mode="json")
    del data["seed"]
    (data["student"]["imitation"] or {}).pop("seed", None)
    if share is not None:
        del data["credit"]["rule"]["share"]
    return short_hash(data)


def _wanted(plan: Plan, only: str | None) -> set[str]:
    """The names of the jobs to run. Raises `UserError` for a pattern that fits nothing."""
    if only is None:
        return set(plan.jobs)
    found = [member.name for member in plan.members if member.rate is None and fnmatchcase(member.name, only)]
    if not found:
        names = [member.name for member in plan.members if member.rate is None]
        raise UserError(
            f"--only {only!r} fits none of the {len(names)} members, which are called like {names[0]}; "
            "'*' stands for anything"
        )
    return plan.with_needs(found)


def _refuse_stale(plan: Plan, directory: StudyDirectory, wanted: set[str]) -> None:
    stale = [member for member in plan.members if member.name in wanted and directory.stale(member)]
    if stale:
        folders = "\n  ".join(str(directory.folder(member)) for member in stale[:10])
        more = f"\n  and {len(stale) - 10} more" if len(stale) > 10 else ""
        raise UserError(
            f"{len(stale)} members were finished with other settings than the study file has now. Put the settings "
            f"back, name another --out, or delete these folders to run them again:\n  {folders}{more}"
        )


def _preflight(plan: Plan, wanted: set[str]) -> None:
    """Play each environment and compare each pair of models once. Raises `UserError`."""
    seen = set()
    for member in plan.members:
        if member.name not in wanted:
            continue
        config = member.draft
        env = config.env
        played = short_hash(env.model_dump(mode="json"))
        if played not in seen:
            check_environment(EnvSpec(env.id, env.kwargs), max_turns=env.max_turns)
        models = [model.model_dump(mode="json") for model in (config.student, config.teacher)]
        for model in models:
            (model.get("imitation") or {}).pop("seed", None)
        pair = short_hash([played, models, config.top_k, config.rollout.max_tokens])
        if pair not in seen:
            check_models(config)
        seen |= {played, pair}
