"""The teacher behind a server: where it is, what it is called there, and how patient to be with it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

from trpd_agents.config.base import Count, Name, NonNegative, Positive
from trpd_agents.config.more_teachers import Cached


def checked_url(url: str) -> str:
    """`url` without slashes at its end. Raises ValueError unless it is an address of HTTP without a key in it."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "an address without user, password or query wanted, because it is written into the run directory; put the "
            "key into an environment variable and its name into api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"an address such as http://127.0.0.1:8000/v1 wanted, found {url!r}")
    return url.rstrip("/")


class ServerTeacherConfig(Cached):
    """A model that a server scores with. How many top tokens it is asked for follows from `credit`."""

    guidance: ClassVar[tuple[str, ...]] = ("none", "prefix", "bernoulli", "rescue")
    whole_distribution: ClassVar[bool] = False  # a server returns the most likely tokens and no more

    kind: Literal["server"] = "server"
    url: Annotated[Name, AfterValidator(checked_url)]  # up to and including /v1
    model: Name  # as the server calls it
    tokenizer: Name | None = None  # a directory or hub id, compared with the student's; None: only what the server says
    max_parallel: Count = 16  # requests at once
    timeout_seconds: Positive = 120.0  # for one request
    patience_seconds: NonNegative = 600.0  # how long a server may be away before the run stops
    api_key_env: Name | None = None  # name of the environment variable that holds the key
