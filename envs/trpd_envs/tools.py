"""Environments whose actions are tool calls. Methods marked `@tool` become functions that a model can call.

    class Safe(ToolEnv):
        instructions = "Open the safe. Call one tool per turn."

        def start(self) -> str:
            self.code = int(self.np_random.integers(10))
            return "The safe has a dial from 0 to 9."

        @tool
        def turn_dial(self, number: int) -> str:
            '''Turn the dial to a number.

            Args:
                number: from 0 to 9
            '''
            if not 0 <= number <= 9:
                raise ToolError("The dial ends at 9.")
            if number == self.code:
                self.finish(success=True)
                return "It opens."
            return "Nothing happens."

Invariant: whatever text arrives, one turn passes and an observation says what happened; a call that cannot be parsed,
bound or run is `info["ok"] = False`, never an exception. Nothing is ever evaluated.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from trpd_envs.base import Refused, TextEnv
from trpd_envs.calls import BadCall, Call, format_call, parse_calls
from trpd_envs.schema import Function, describe_function, quote, suggest

__all__ = ["BadCall", "Call", "ToolEnv", "ToolError", "format_call", "parse_calls", "tool"]

_LOGGER = logging.getLogger(__name__)
_MARK = "_is_tool"
_ERROR_SHOWN = 200  # characters of an unexpected exception's message that the model gets to read

ToolMethod = TypeVar("ToolMethod", bound=Callable[..., str])


class ToolError(Refused):
    """Raised by a tool whose world refuses the action; its message is the observation and `info["ok"]` is False."""


def tool(method: ToolMethod) -> ToolMethod:
    """Mark a method of a `ToolEnv` as a tool.

    Every argument needs a type hint among str, int, float, bool, list[...], Literal[...], or one of these with None.
    The first line of the docstring is the description; an `Args:` section, if there is one, describes the arguments.
    """
    if not inspect.isfunction(method):
        raise TypeError(f"@tool marks plain methods, found {method!r}")
    setattr(method, _MARK, True)
    return method


class ToolEnv(TextEnv):
    """A text game played through its `@tool` methods.

    A subclass writes `start()`, returning the first observation, and tools, each returning the next one. A tool calls
    `self.finish(success)` to end the episode and raises `ToolError` to refuse. `tools` lists the functions as JSON
    schema. `max_calls` is how many calls one action may hold; of several, the first failure leaves the rest unplayed.
    An exception that a tool did not mean to raise is logged and shown to the model as a failed call.
    """

    max_calls: ClassVar[int] = 1
    _functions: ClassVar[dict[str, Function]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        functions: dict[str, Function] = {}
        for owner in reversed(cls.__mro__):
            for name, member in vars(owner).items():
                if getattr(member, _MARK, False):
                    if hasattr(ToolEnv, name):
                        raise TypeError(f"@tool {member.__qualname__}: ToolEnv already has a {name!r}; rename the tool")
                    functions[name] = describe_function(member)
                else:
                    functions.pop(name, None)  # a subclass may override a tool by something that is none
        cls._functions = functions
        cls.tools = [function.schema() for function in functions.values()]

    def act(self, action: str) -> str:
        calls: list[Call] = []
        for call in parse_calls(action):
            if isinstance(call, BadCall):
                raise Refused(f"Bad call: {call.reason}.")
            calls.append(call)
        if not calls:
            raise Refused("No tool call found.")
        if len(calls) > self.max_calls:
            raise Refused(f"{len(calls)} tool calls found, at most {self.max_calls} wanted.")
        observations: list[str] = []
        for call in calls:
            try:
                observations.append(self._run(call))
            except Refused as refusal:
                raise Refused("\n".join([*observations, str(refusal)])) from None
            if self.over:
                break
        return "\n".join(observations)

    def _run(self, call: Call) -> str:
        function = self._functions.get(call.name)
        if function is None:
            known = list(self._functions)
            hint = suggest(call.name, known) or f" Tools: {', '.join(known)}."
            raise Refused(f"No tool is named {quote(call.name)}.{hint}")
        arguments = function.bind(call.arguments)
        try:
            observation = function.run(self, **arguments)
        except Refused:
            raise
        except Exception as error:
            _LOGGER.warning("tool %s of %s raised", call.name, type(self).__name__, exc_info=True)
            message = f"{type(error).__name__}: {error}"[:_ERROR_SHOWN].encode("utf-8", "replace").decode()
            raise Refused(f"{call.name} failed: {message}") from error
        if not isinstance(observation, str):
            found = type(observation).__name__
            raise TypeError(f"tool {call.name} of {type(self).__name__} must return text, found {found}")
        return observation
