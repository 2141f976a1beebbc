"""Asking an OpenAI-compatible server: several requests at once, and patience while it is away.

Invariant: answers come back in the order of the requests, each one whole; a request that could not be answered raises
one of three errors, told apart by what helps. The key is sent as a header and is in no message.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from trpd_agents.errors import UserError

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds between two tries; doubled from the one to the other
_TRY_AGAIN = (408, 425, 429)  # and everything from 500 on
_SHOWN = 300  # characters of a server's own words


class EndpointError(Exception):
    """What came of asking a server. The message says what and, where it is known, what to do."""


class Unavailable(EndpointError):
    """Nobody answered, or only that it is not possible now, for as long as there was patience. `status` is HTTP's, None
    if there was no answer at all."""

    def __init__(self, message: str, status: int | None):
        super().__init__(message)
        self.status = status


class Refused(EndpointError):
    """The server understood and will not: asking again would not help. `status` is HTTP's."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class BadAnswer(EndpointError):
    """An answer that is not what was asked for."""


class Endpoint:
    """A server at `url` (up to and including `/v1`).

    Args:
        timeout: seconds for one request.
        patience: seconds from the first failure of a request until `Unavailable` is raised; 0: no second try.
        max_parallel: requests at once.
        key_env: name of the environment variable with the key; None: none is sent.
        say: is told when the server is away, and when it is back; called from any thread.

    Raises:
        UserError: the environment variable is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 120.0,
        patience: float = 600.0,
        max_parallel: int = 16,
        key_env: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ):
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.patience = patience
        self.max_parallel = max_parallel
        self.say = say
        self._key = _key(key_env)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=max_parallel, max_keepalive_connections=max_parallel)
        self._client = httpx2.Client(headers=headers, timeout=None, limits=limits)
        self._lock = threading.Lock()
        self._away = False

    def get(self, path: str) -> dict[str, Any]:
        """The answer to GET `path`; see `_address`."""
        return self._patiently("GET", path, None, threading.Event())

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`."""
        return self._patiently("POST", path, body, threading.Event())

    def post_all(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers to `bodies`, in their order, asked in parallel."""
        stop = threading.Event()
        with ThreadPoolExecutor(self.max_parallel) as pool:
            futures = [pool.submit(self._patiently, "POST", path, body, stop) for body in bodies]
            try:
                return [future.result() for future in futures]
            except BaseException:  # an interrupt as well: nobody waits any more
                stop.set()
                for future in futures:
                    future.cancel()
                raise

    def close(self) -> None:
        self._client.close()

    def _patiently(self, method: str, path: str, body: dict[str, Any] | None, stop: threading.Event) -> dict[str, Any]:
        began: float | None = None
        delay = FIRST_DELAY
        while True:
            try:
                answer = self._ask(method, path, body)
            except _NotNow as error:
                now = time.monotonic()
                began = now if began is None else began
                left = self.patience - (now - began)
                if left <= 0 or stop.is_set():
                    waited = f" for {now - began:.0f} s" if self.patience else ""
                    raise Unavailable(
                        f"the server at {self.url} did not answer{waited}: {error}", error.status
                    ) from None
                self._tell(away=True, text=f"{error}; trying again for {left:.0f} s")
                stop.wait(min(max(delay, error.wanted), left))
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                self._tell(away=False, text="going on")
                return answer

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = self._client.request(method, self._address(path), json=body, timeout=self.timeout)
        except httpx2.TransportError as error:
            raise _NotNow(self._clean(str(error) or type(error).__name__)) from None
        if response.status_code in _TRY_AGAIN or response.status_code >= 500:
            after = response.headers.get("retry-after", "")
            raise _NotNow(self._words(response), response.status_code, float(after) if after.isdigit() else 0.0)
        if response.status_code >= 300:
            raise Refused(response.status_code, self._words(response))
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BadAnswer(
                f"the server at {self.url} answered {path} with what is no JSON object: {response.text!r:.80}"
            )
        return answer

    def _address(self, path: str) -> str:
        """`path` under the url; one that begins with a slash is beside `/v1`, not under it."""
        return self.url.removesuffix("/v1") + path if path.startswith("/") else f"{self.url}/{path}"

    def _words(self, response: httpx2.Response) -> str:
        """The status and what the server itself says about it."""
        try:
            answer = response.json()
            found = answer.get("error", answer)
            text = str(found.get("message", found) if isinstance(found, dict) else found)
        except (ValueError, AttributeError):
            text = response.text
        return self._clean(f"HTTP {response.status_code}: {' '.join(text.split())}")

    def _clean(self, text: str) -> str:
        return (text.replace(self._key, "***") if self._key else text)[:_SHOWN]

    def _tell(self, *, away: bool, text: str) -> None:
        """Once when the server goes away, once when it is back, however many requests noticed."""
        with self._lock:
            changed, self._away = self._away != away, away
        if changed:
            self.say(f"server at {self.url}: {text}")


class _NotNow(Exception):
    """Worth another try; `wanted` is how many seconds the server asked to be left alone."""

    def __init__(self, message: str, status: int | None = None, wanted: float = 0.0):
        super().__init__(message)
        self.status = status
        self.wanted = wanted


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"the environment variable {name}, which should hold the server's key, is not set; export it")
    return key
