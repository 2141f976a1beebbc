"""BFCL multi-turn: a user with several requests, one after another, and eight simulated APIs to fulfil them with.

Rules: the user's request is the observation; the agent calls tools, one or several in a turn, and reads their results;
a turn without a call ends its work on the request, and the next one comes. A tool that a request needs may be missing
until the next (`miss_func`), or a detail of the request (`miss_param`): no call can fulfil it then. More than 20 turns
of calls on one request end the episode as a failure. Success, decided when the last request has been worked on: after
each request for which the reference makes calls, the public state of all APIs was that of the reference, and every
result that the reference got was among those that the agent had got so far; judged by the package's own functions.
What is hard: reading tens of tools, and acting no more than asked, since no state is forgiven later.

Invariant: no text is evaluated. The package executes calls as Python source; here a name is looked up among the tools
of the task and its arguments are bound to the schema that the agent was shown.
Source: S. G. Patil et al., The Berkeley Function Calling Leaderboard, ICML 2025.
"""

from __future__ import annotations

import copy
import decimal
import inspect
import json
import math
from typing import Any

from trpd_agents.errors import UserError
from trpd_agents.textenv.benchmarks.base import BenchmarkEnv, check_choice
from trpd_agents.textenv.benchmarks.bfcl_tasks import CATEGORIES, new_worlds, read_call, task_list, tool_schemas
from trpd_agents.textenv.benchmarks.packages import require
from trpd_envs.base import Refused
from trpd_envs.calls import BadCall, Call, format_call, parse_calls
from trpd_envs.schema import coerce, quote, suggest

MAX_STEPS = 20  # turns of calls on one request; the package's limit, too
_MAX_CALLS = 32  # in one turn
_RULES = (
    "You help a user by calling tools. Work on the request until it is fulfilled, with as many turns of calls as it "
    "takes, and do nothing that was not asked for. When it is fulfilled, or cannot be with these tools and details, "
    "answer without a call: the next request follows."
)
_NEW_TOOLS = "More tools are available to you now. Please try again."
_GIVE_UP = "I cannot do that with the tools and details that I have."
_DONE = "Done."
# Some results take time or memory in proportion to these arguments' values.
_LARGEST = {"precision": 1000, "exponent": 1000}


class MultiTurn(BenchmarkEnv):
    """The category `task`, such as `multi_turn_base-v0`. `tasks=[first, end]` keeps to a part of its 200 tasks."""

    max_action_length = 10_000  # some requests are to post the content of a long file

    def __init__(self, task: str, tasks: list[int] | None = None, max_turns: int = 60) -> None:
        self._category = check_choice("a category of bfcl", task, [f"{name}-v0" for name in CATEGORIES])[:-3]
        every = task_list(self._category)
        first, end = _range(tasks, len(every))
        self._tasks = every[first:end]
        checks = "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker"
        self._checker = require(checks, "bfcl", f"bfcl/{task}")
        super().__init__(max_turns)

    def start(self) -> str:
        self._task = self.picked(self._tasks)
        held = self._task.get("missed_function", {})
        self._schemas = tool_schemas(self._task["involved_classes"], self._category)
        self._held = {int(turn): {name: self._schemas.pop(name) for name in held[turn]} for turn in held}
        self._worlds = new_worlds(self._task, self._category)
        self._results: list[str] = []
        self._valid = True
        self._request = -1
        self.instructions = _RULES
        # What the reference does: its states before, between and after its calls on the present request.
        self._reference = [new_worlds(self._task, self._category)]
        return self._next_request()

    def act(self, action: str) -> str:
        calls = parse_calls(action)
        if not calls:
            return self._end_request()
        self._steps += 1
        if self._steps > MAX_STEPS:
            self.finish(success=False)
            return f"More than {MAX_STEPS} turns of calls on one request."
        if len(calls) > _MAX_CALLS:
            raise Refused(f"{len(calls)} tool calls found, at most {_MAX_CALLS} wanted.")
        seen: list[str] = []
        ok = True
        for call in calls:
            try:
                result = self._run(self._worlds, *self._bound(call))
                self._results.append(result)
                ok = ok and not _is_error(result)
            except Refused as refusal:
                result, ok = str(refusal), False
            seen.append(result)
        if not ok:
            raise Refused("\n".join(seen))
        return "\n".join(seen)

    def expert(self) -> str | None:
        """The reference's next call on this request, or as many as it takes to end in time, then one without a call.

        It goes on from wherever the APIs, private state included, are as the reference had them at some time during
        this request with the same results in hand; None elsewhere, and once success is lost.
        """
        if self.over or not self._valid:
            return None
        # Even where all results are in hand, the package wants to see a call.
        most = len(self._calls) if self._steps else len(self._calls) - 1
        for done in range(max(most, 0), -1, -1):
            if not self._missing(self._needed[:done]) and _same(self._worlds, self._reference[done]):
                break
        else:
            return None
        left = sum(len(turn) + 1 for turn in self._task["ground_truth"][self._request + 1 :]) + len(self._calls) - done
        if left + 1 > self.turns_left:
            return None
        if done == len(self._calls):
            return _DONE if self._calls else _GIVE_UP
        steps = MAX_STEPS - self._steps
        return self._written(self._calls[done : done + math.ceil((len(self._calls) - done) / steps)]) if steps else None

    def _written(self, calls: list[tuple[str, dict[str, Any]]]) -> str | None:
        """The calls as an action; None where the reference breaks the rules that the agent plays by."""
        text = "".join(format_call(name, **arguments) for name, arguments in calls)
        try:
            for call in parse_calls(text):
                self._bound(call)
        except Refused:
            return None
        return text if len(text) <= self.max_action_length else None

    def legal_actions(self) -> list[str]:
        """Every available tool that takes no argument, and an answer without a call."""
        if self.over:
            return []
        bare = [name for name, schema in self._schemas.items() if not schema["function"]["parameters"].get("required")]
        return [*(format_call(name) for name in bare), _DONE]

    def _next_request(self) -> str:
        self._request += 1
        self._steps = 0
        self._schemas |= self._held.get(self._request, {})
        self.tools = list(self._schemas.values())  # type: ignore[misc]  # they belong to the episode, not to the class
        states = [self._reference[-1]]
        self._calls = [self._named(text, states[0]) for text in self._task["ground_truth"][self._request]]
        self._needed = []
        for name, arguments in self._calls:
            states.append(copy.deepcopy(states[-1]))
            self._needed.append(self._run(states[-1], name, arguments))
        self._reference = states
        messages = [message["content"] for message in self._task["question"][self._request]]
        return "\n".join(messages) or _NEW_TOOLS

    def _end_request(self) -> str:
        if self._calls:
            state = self._checker.state_checker(self._worlds, self._reference[-1])
            self._valid = self._valid and self._steps > 0 and state["valid"] and not self._missing(self._needed)
        if self._request + 1 < len(self._task["question"]):
            return self._next_request()
        self.finish(success=self._valid)
        return "That was the last request."

    def _missing(self, needed: list[str]) -> bool:
        return not self._checker.response_checker(self._results, needed, self._request)["valid"]

    def _bound(self, call: Call | BadCall) -> tuple[str, dict[str, Any]]:
        """A call's name and arguments, checked against the schema. Arguments stay as written: the reference's results
        are compared as text, in which 100 and 100.0 differ."""
        if isinstance(call, BadCall):
            raise Refused(f"Bad call: {call.reason}.")
        if call.name not in self._schemas:
            hint = suggest(call.name, list(self._schemas))
            raise Refused(f"No tool is named {quote(call.name)}.{hint}")
        parameters = self._schemas[call.name]["function"]["parameters"]
        for name, value in call.arguments.items():
            if name not in parameters["properties"]:
                raise Refused(
                    f"{call.name} has no argument {quote(name)}.{suggest(name, list(parameters['properties']))}"
                )
            try:
                coerce(value, parameters["properties"][name])
            except ValueError as error:
                raise Refused(f'{call.name}: "{name}" {error}.') from None
            if isinstance(value, int | float) and abs(value) > _LARGEST.get(name, abs(value)):
                raise Refused(f'{call.name}: "{name}" is at most {_LARGEST[name]} here.')
        for name in parameters.get("required", []):
            if name not in call.arguments:
                raise Refused(f'{call.name} needs "{name}".')
        return call.name, call.arguments

    def _run(self, worlds: dict[str, Any], name: str, arguments: dict[str, Any]) -> str:
        """A tool's result as the text that BFCL would show; an exception is a result, too."""
        method = _method(worlds, name)
        with decimal.localcontext():  # one API sets the precision of everybody's decimals
            try:
                result = method(**copy.deepcopy(arguments))
                if isinstance(result, str):
                    return result
                return json.dumps(result) if isinstance(result, dict) else str(result)
            except Exception as error:
                return f"Error during execution: {error}"

    def _named(self, text: str, worlds: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A reference call with all of its arguments named."""
        name, values, arguments = read_call(text)
        names = list(inspect.signature(_method(worlds, name)).parameters)
        return name, dict(zip(names, values, strict=False)) | arguments


def _method(worlds: dict[str, Any], name: str) -> Any:
    """The API function of that name; where two APIs have it, the later one's, as in the package."""
    return [getattr(world, name) for world in worlds.values() if inspect.ismethod(getattr(world, name, None))][-1]


def _same(worlds: dict[str, Any], reference: dict[str, Any]) -> bool:
    return all(_snapshot(world) == _snapshot(reference[api]) for api, world in worlds.items())


def _snapshot(world: Any) -> dict[str, Any]:
    """All of an API's state, the private part too, with generators and folders in a form that can be compared."""
    return {
        key: value.getstate() if hasattr(value, "getstate") else _path(value) if key == "_current_dir" else value
        for key, value in vars(world).items()
    }


def _path(folder: Any) -> list[str]:
    names = []
    while folder is not None:
        names.append(folder.name)
        folder = folder.parent
    return names


def _is_error(result: str) -> bool:
    return result.startswith(("Error during execution:", '{"error"'))


def _range(tasks: Any, count: int) -> tuple[int, int]:
    if tasks is None:
        return 0, count
    if isinstance(tasks, list | tuple) and len(tasks) == 2 and all(type(number) is int for number in tasks):
        first, end = tasks
        if 0 <= first < end <= count:
            return first, end
    raise UserError(f"tasks is [first, end] with 0 <= first < end <= {count}; found {tasks!r}")
