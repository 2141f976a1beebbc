"""A person who plays in the terminal: lines are actions, and those that begin with a slash are commands."""

from __future__ import annotations

import contextlib
import sys

from trpd_agents.cli.play_record import Action, Record
from trpd_agents.cli.terminal import printable
from trpd_agents.textenv.call_line import describe_tool, parse_call
from trpd_agents.textenv.spec import did_you_mean

_MOST_LEGAL = 50  # that are listed
_COMMANDS = {
    "/call": "NAME ARG=VALUE ...: call a tool; a value with spaces goes into quotes",
    "/expert": "what the environment's expert would do now",
    "/legal": "what the environment would accept now",
    "/tools": "the tools again",
    "/help": "this list",
    "/quit": "stop; what was played is kept. Ctrl-D and Ctrl-C do the same",
}


class Quit(Exception):
    """The person has had enough."""


class PersonPlayer:
    """`advise` shows what the expert would do before each action."""

    def __init__(self, advise: bool):
        self._advise = advise
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  lines can be edited and called back

    def act(self, record: Record) -> Action:
        """Ask until there is an action. An empty line asks again.

        Raises:
            Quit: on /quit, and at the end of the input.
        """
        if self._advise:
            self._say_expert(record)
        while True:
            line = ask("> ").strip()
            if line.startswith("//"):
                return Action(line[1:], "person")
            if line.startswith("/"):
                call = self._command(record, line)
                if call is not None:
                    return Action(call, "person")
            elif line:
                return Action(line, "person")

    def finish(self, record: Record) -> None:
        """Nothing is kept from episode to episode."""

    def _command(self, record: Record, line: str) -> str | None:
        """Do what the line says; the action where it is one."""
        command, _, rest = line.partition(" ")
        match command:
            case "/quit":
                raise Quit
            case "/call":
                try:
                    call = parse_call(rest, record.tools)
                except ValueError as error:
                    print(f"not sent: {printable(str(error))}")
                    return None
                print(printable(call))
                return call
            case "/expert":
                self._say_expert(record)
            case "/legal":
                self._say_legal(record)
            case "/tools":
                say_tools(record)
            case "/help":
                say_help()
            case _:
                print(
                    f"there is no {printable(command)}.{did_you_mean(command, _COMMANDS)} /help lists the commands; "
                    "an action that begins with a slash is written with two"
                )
        return None

    def _say_expert(self, record: Record) -> None:
        if not record.env.has_expert:
            print("expert: this environment has none")
            return
        action = record.env.expert()
        print(f"expert: {'knows nothing to do: the task is lost' if action is None else printable(action)}")

    def _say_legal(self, record: Record) -> None:
        if not record.env.has_legal_actions:
            print("this environment does not list what it would accept")
            return
        actions = record.env.legal_actions()
        for action in actions[:_MOST_LEGAL]:
            print(f"  {printable(action)}")
        if len(actions) > _MOST_LEGAL:
            print(f"  and {len(actions) - _MOST_LEGAL} more")
        if not actions:
            print("  nothing")


def ask(prompt: str) -> str:
    """A line of the input. Raises `Quit` where it ends."""
    try:
        return input(prompt)
    except EOFError:
        print()
        raise Quit from None


def say_tools(record: Record) -> None:
    """The tools and their arguments, and how one is called."""
    if not record.tools:
        print("there are no tools")
        return
    print("Tools, called with /call NAME ARG=VALUE ...:")
    for tool in record.tools:
        print("\n".join(f"  {line}" for line in printable(describe_tool(tool)).splitlines()))


def say_help() -> None:
    """What can be written at the prompt."""
    print("Write an action as the instructions want it, or:")
    for command, meaning in _COMMANDS.items():
        print(f"  {command:<8} {meaning}")
