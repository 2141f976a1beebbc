"""The errors a user can cause, told apart by whose fault they are.

`UserError` is a mistake in what was asked for: the command line prints its message and exits with code 2, without a
traceback. `EnvironmentFailure` is a fault of an environment or its infrastructure during an episode: it is recorded on
the trajectory, retried, counted by kind and left out of every rate; it is never scored as a reward of 0.
"""


class UserError(Exception):
    """What was asked for cannot be done. The message names what was found, what was wanted and what to do."""


class EnvironmentFailure(Exception):
    """An environment broke its contract or fell over.

    `kind` is one of `reset_raised`, `step_raised`, `bad_observation`, `bad_reward`, `bad_flag`, `timeout`,
    `construct_raised`.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message
