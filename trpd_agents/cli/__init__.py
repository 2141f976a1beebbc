"""The `trpd` command: one small file per subcommand, which parses arguments, calls the library and prints.

Invariant: importing this package imports neither torch nor transformers, so `trpd --help` answers at once; each
command imports what it needs when it runs. A user's mistake ends in an `error:` message on stderr and exit code 2,
never in a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trpd_agents import __version__
from trpd_agents.cli.audit import audit
from trpd_agents.cli.check import check
from trpd_agents.cli.doctor import doctor
from trpd_agents.cli.envs import envs
from trpd_agents.cli.eval import evaluate_command
from trpd_agents.cli.init import init
from trpd_agents.cli.methods import methods
from trpd_agents.cli.play import play
from trpd_agents.cli.recredit import recredit
from trpd_agents.cli.report import report
from trpd_agents.cli.serve_teacher import serve_teacher
from trpd_agents.cli.sft import sft
from trpd_agents.cli.study import study
from trpd_agents.cli.terminal import printable
from trpd_agents.cli.train import train
from trpd_agents.cli.view import view
from trpd_agents.errors import RunError, UserError
from trpd_agents.interrupt import Interrupted

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns what a user can cause into a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            raise typer.Exit(2) from None
        except RunError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            raise typer.Exit(1) from None
        except Interrupted as stopped:
            print(printable(str(stopped)), file=sys.stderr)
            raise typer.Exit(130) from None
        except KeyboardInterrupt:
            print("interrupted; `trpd train --resume RUN_DIR` continues from the last checkpoint", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"trpd {__version__}")
        raise typer.Exit


@app.callback()
def trpd(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train small language-model agents from stronger ones, and measure how much better they got.

    Start by looking at what there is to play (`trpd envs`), check a recipe without running it
    (`trpd train configs/FILE.yaml --dry-run`), then train it and compare the result with its start (`trpd eval`).
    """


app.command("train")(train)
app.command("eval")(evaluate_command)
app.command("envs")(envs)
app.command("check")(check)
app.command("doctor")(doctor)
app.command("play")(play)
app.add_typer(init, name="init")
app.command("sft")(sft)
app.command("study")(study)
app.add_typer(methods, name="methods")
app.command("report")(report)
app.command("view")(view)
app.command("recredit")(recredit)
app.command("audit")(audit)
app.command("serve-teacher")(serve_teacher)


def main() -> None:
    """Entry point of the console script."""
    app()
