"""What can go wrong, told apart by whose fault it is.

`UserError` is a mistake in what was asked for: the command line prints its message and exits with code 2, without a
traceback. `RunError` is a run that cannot go on although nothing was wrong with what was asked; exit code 1.
`EnvironmentFailure` is a fault of an environment or its infrastructure during an episode: it is recorded on the
trajectory, retried, counted by kind and left out of every rate; it is never scored as a reward of 0.
"""


class UserError(Exception):
    """What was asked for cannot be done. The message names what was found, what was wanted and what to do."""


class RunError(Exception):
    """A run cannot go on: a process died, weights did not arrive, a gradient is not finite. The message says which."""


class EnvironmentFailure(Exception):
    """An environment broke its contract or fell over.

    `kind` is one of `reset_raised`, `step_raised`, `bad_observation`, `bad_reward`, `bad_flag`, `timeout`,
    `construct_raised`, `worker_died`, `not_restored`.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message
