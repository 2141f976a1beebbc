"""A real HTTP server in a thread, with a real model behind it, that answers as vLLM does and can be told to misbehave.

`/v1/models`, `/v1/completions` in both dialects of prompt log-probabilities, `/v1/chat/completions`, `/tokenize`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from trpd_agents.counter_rng import uniform
from trpd_agents.dialogue import end_ids
from trpd_agents.models import LanguageModel


class Error(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass
class ModelServer:
    """Serves `lm` as `name`. The fields are switches, read at every request."""

    lm: LanguageModel
    name: str = "teacher"
    dialects: tuple[str, ...] = ("prompt_logprobs", "echo")
    ids_by_name: bool = True  # honours return_tokens_as_token_ids and return_token_ids
    tokenizes: bool = True
    max_logprobs: int = 20
    context: int = 2048
    key: str | None = None
    fail_next: int = 0  # so many requests get `status`
    status: int = 500
    delay: float = 0.0  # seconds before every answer
    slow_next: int = 0  # so many requests take `slow` seconds
    slow: float = 4.0
    fewer: int = 0  # top tokens less than asked
    nan: bool | int = False  # all log-probabilities, or the one at this position
    noise: float = 0.0  # nats, added anew to every answer
    shift: int = 0  # values are written this many positions off, under the right ids
    shift_all: int = 0  # ids and values are
    rename: dict[int, str] = field(default_factory=dict)  # what these tokens are called
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._lock, self._now, self._calls = threading.Lock(), 0, 0
        self._http: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer is one packet, or the next one waits for an acknowledgement

            def setup(self) -> None:
                super().setup()
                server._connections.append(self.connection)

            def do_GET(self) -> None:
                self._reply({})

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _reply(self, body: dict[str, Any]) -> None:
                try:
                    status, answer = 200, server.answer(self.path, body, self.headers.get("Authorization", ""))
                except Error as error:
                    status, answer = error.status, {"error": {"message": str(error), "code": error.status}}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, allow_reuse_address = True, True

            def handle_error(self, *_: object) -> None:  # a client that hung up
                pass

        self._http = Server(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.shutdown()
            http.server_close()
        for connection in self._connections:  # those that are kept alive
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def answer(self, path: str, body: dict[str, Any], authorization: str) -> dict[str, Any]:
        with self._lock:
            self._now += 1
            self._calls += 1
            self.most_at_once = max(self.most_at_once, self._now)
            call = self._calls
            fails = self.fail_next > 0
            self.fail_next -= fails
            slow = self.slow_next > 0
            self.slow_next -= slow
        try:
            time.sleep(self.slow if slow else self.delay)
            if self.key is not None and authorization != f"Bearer {self.key}":
                raise Error(401, f"wrong key: {authorization}")
            if fails:
                raise Error(self.status, "out of order")
            if path == "/v1/models":
                return {"object": "list", "data": [{"id": self.name, "max_model_len": self.context}]}
            if body.get("model") != self.name:
                raise Error(404, f"The model `{body.get('model')}` does not exist.")
            self.requests.append(body)
            with self._lock:
                if path == "/v1/completions":
                    return {"model": self.name, "choices": [self._complete(body, call)]}
                if path == "/v1/chat/completions":
                    return self._chat(body)
                if path == "/tokenize" and self.tokenizes:
                    return {"tokens": self.lm.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]}
            raise Error(404, "Not Found")
        finally:
            with self._lock:
                self._now -= 1

    # ---- completions ----

    def _complete(self, body: dict[str, Any], call: int) -> dict[str, Any]:
        prompt = body["prompt"]
        self._check(prompt, body.get("max_tokens", 16))
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length"}
        if (k := body.get("prompt_logprobs")) is not None and "prompt_logprobs" in self.dialects:
            self._check_k(k, "prompt logprobs")
            choice["prompt_logprobs"] = self._prompt_logprobs(prompt, k, call)
        if body.get("echo"):
            if "echo" not in self.dialects:
                raise Error(400, "echo is not supported")
            self._check_k(body["logprobs"], "logprobs")
            return choice | {"logprobs": self._echo(prompt, body["logprobs"], call)}
        ids = self._generate(prompt, body)
        choice["text"] = self.lm.tokenizer.decode(ids, skip_special_tokens=True)
        if self.ids_by_name and body.get("return_token_ids"):
            choice["token_ids"] = ids
        if body.get("logprobs") is not None:
            choice["logprobs"] = {"tokens": [self._name(t) for t in ids], "token_logprobs": [-1.0] * len(ids)}
        return choice

    def _check(self, prompt: list[int], new: int) -> None:
        if max(prompt) >= self.lm.vocab_size:
            raise Error(400, f"Token id {max(prompt)} is out of vocabulary")
        if len(prompt) + new > self.context:
            raise Error(400, f"This model's maximum context length is {self.context} tokens.")

    def _check_k(self, k: int, what: str) -> None:
        if k > self.max_logprobs:
            raise Error(400, f"Requested {what} of {k}, which is greater than max allowed: {self.max_logprobs}")

    @torch.no_grad()
    def _distributions(self, prompt: list[int], call: int) -> torch.Tensor:
        """`[T, V]` nats: row t is what token t came from; the first row is of no use."""
        logp = self.lm.model(input_ids=torch.tensor([prompt])).logits[0].float().log_softmax(-1)
        logp = torch.cat([logp[:1], logp[:-1]])
        if self.noise:
            logp = logp + self.noise * uniform(call, torch.arange(logp.numel())).reshape(logp.shape).float()
        if self.nan is True:
            logp[:] = torch.nan
        elif self.nan:
            logp[self.nan] = torch.nan
        return torch.roll(logp, self.shift, 0)

    def _entries(self, prompt: list[int], k: int, call: int) -> list[tuple[int, dict[int, float]] | None]:
        logp = self._distributions(prompt, call)
        own = logp.gather(1, torch.tensor(prompt)[:, None])[:, 0].tolist()
        values, ids = (part.tolist() for part in logp.topk(max(0, k - self.fewer)))
        found: list[tuple[int, dict[int, float]] | None] = [None]
        for t in range(1, len(prompt)):
            # the prompt's own token first, then the others, as vLLM does
            here = {prompt[t]: own[t], **dict(zip(ids[t], values[t], strict=True))}
            found.append((prompt[t], {i: max(v, -9999.0) if v == v else v for i, v in here.items()}))
        return [None, *found[1 + self.shift_all :], *[None] * self.shift_all]

    def _prompt_logprobs(self, prompt: list[int], k: int, call: int) -> list[Any]:
        written: list[Any] = []
        for entry in self._entries(prompt, k, call):
            if entry is None:
                written.append(None)
                continue
            written.append(
                {
                    str(i): {"logprob": value, "rank": rank, "decoded_token": self._decoded(i)}
                    for rank, (i, value) in enumerate(entry[1].items())
                }
            )
        return written

    def _echo(self, prompt: list[int], k: int, call: int) -> dict[str, Any]:
        entries = self._entries(prompt, k, call)
        return {
            "tokens": [self._name(entry[0] if entry else t) for t, entry in zip(prompt, entries, strict=True)],
            "token_logprobs": [entry[1][entry[0]] if entry else None for entry in entries],
            "top_logprobs": [{self._name(i): v for i, v in entry[1].items()} if entry else None for entry in entries],
        }

    def _decoded(self, token: int) -> str:
        return self.rename.get(token) or self.lm.tokenizer.decode([token])

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self.ids_by_name else self._decoded(token)

    @torch.no_grad()
    def _generate(self, prompt: list[int], body: dict[str, Any]) -> list[int]:
        ids, stops = list(prompt), set(body.get("stop_token_ids") or end_ids(self.lm.tokenizer))
        while len(ids) - len(prompt) < body["max_tokens"]:
            logits = self.lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            if not body.get("temperature"):
                ids.append(int(logits.argmax()))
            else:
                draw = float(uniform(body.get("seed") or 0, len(ids)))
                ids.append(min(int((logits.softmax(-1).cumsum(-1) < draw).sum()), len(logits) - 1))
            if ids[-1] in stops:
                break
        return ids[len(prompt) :]

    # ---- chat ----

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.lm.tokenizer
        text = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        self._check(prompt, body["max_tokens"])
        ids = self._generate(prompt, body)
        ended = ids[-1] in end_ids(tokenizer)
        content = tokenizer.decode(ids[:-1] if ended else ids)
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop" if ended else "length"}
        return {"model": self.name, "choices": [choice], "usage": {"completion_tokens": len(ids)}}
