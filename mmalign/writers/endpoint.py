"""A server as a writer: whatever answers the chat completions requests that OpenAI defined."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

from mmalign.types import Message, UserError
from mmalign.writers._asking import Asking, Refused
from mmalign.writers._chat import answer_of, chances_of, messages_of
from mmalign.writers._turns import given, instructed, refuse_alike, refuse_uneven
from mmalign.writing import Writer

_TOP = 20  # the most likely tokens of which these servers tell the chances
_SEED = 0x7FFFFFFF  # seeds beyond are no seeds to some servers


@dataclass(frozen=True)
class Endpoint(Writer):
    """A server that is asked over the network, at `url` plus /chat/completions.

    What is asked leaves this machine: texts, pictures as PNG, and of clips up to `frames` frames. Where the
    server wants a key, `key_env` names the environment variable that holds it; no record and no message does.
    A request that meets a busy server (429), a fault of the server (5xx) or silence for `timeout_s` seconds
    is repeated, `retries` times at most, after `backoff_s` seconds, then twice as long each time, or after as
    long as the server asks for. An answer refused for its content is None, and so is one that the server says
    was cut off at `max_new_tokens`. Same question and seed, same answer: as far as the server keeps to it.
    """

    indifferent: ClassVar[frozenset[str]] = frozenset(
        {"key_env", "parallel", "timeout_s", "retries", "backoff_s"}
    )

    url: str  # such as http://127.0.0.1:8000/v1
    model: str  # its name on the server
    key_env: str | None = None  # environment variable that holds the server's key; null: it wants none
    system: str | None = None  # a system turn for questions without one
    max_new_tokens: int = 256  # tokens of an answer, at most; one that is cut off there is no answer
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability; 1: from all
    stop: tuple[str, ...] = ()  # an answer ends before the first of these strings
    frames: int = 8  # of a clip that is sent, at most
    parallel: int = 4  # requests at once
    timeout_s: float = 120.0  # seconds to wait for an answer
    retries: int = 5  # times that a busy or faulty server is asked again
    backoff_s: float = 1.0  # seconds before the first of them; then twice as long each time

    def __post_init__(self) -> None:
        _check_url(self.url)
        for name in ("model", "system", "key_env"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"{name}: must say something")
        if self.key_env is not None and not self.key_env.isidentifier():
            # a key put here by mistake must not be shown
            raise ValueError("key_env: must be the name of an environment variable, not the key itself")
        for name in ("max_new_tokens", "frames", "parallel", "timeout_s", "backoff_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        for name in ("temperature", "retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must lie in (0, 1], got {self.top_p}")
        if "" in self.stop:
            raise ValueError("stop: a stop string must not be empty")

    def ready(self) -> None:
        """See that the key is there and that somebody answers at the address; nothing is asked yet. Raises
        UserError."""
        self._asking.knock()

    @cached_property
    def _asking(self) -> Asking:
        key = None
        if self.key_env is not None:
            key = os.environ.get(self.key_env, "").strip()
            if not key:
                raise UserError(f"endpoint: key_env: the environment variable {self.key_env} is not set")
            if not (key.isascii() and key.isprintable() and " " not in key):  # not shown
                raise UserError(f"endpoint: key_env: what {self.key_env} holds is no key")
        return Asking(self.url.rstrip("/"), key, self.timeout_s, self.retries, self.backoff_s)

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """The server's answers, None for refused, cut-off and empty ones. Raises UserError for a server that
        cannot be reached, does not know the model or the key, or refuses a question for another reason than
        its content."""
        refuse_uneven(questions, seeds)
        drawn: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
        }
        if self.stop:
            drawn["stop"] = list(self.stop)
        wanted = [drawn | {"seed": seed & _SEED} for seed in seeds]
        return [
            None if isinstance(back, Refused) else given(answer_of(back, self.url))
            for back in self._answers(questions, wanted)
        ]

    def chances(
        self, questions: Sequence[tuple[Message, ...]], words: Sequence[str]
    ) -> list[tuple[float, ...]]:
        """For every question the probabilities that the answer's first token is each word, at temperature 1,
        of the 20 likeliest tokens that the server tells, white space around them left out; 0 for a word that
        is not among them. Raises UserError for equal words, for a server that tells no probabilities, and for
        a question refused for its content."""
        if not words:
            raise ValueError("words: name at least one")
        refuse_alike(words, [word.strip() for word in words])
        wanted = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 1, "seed": 0}
        wanted |= {"logprobs": True, "top_logprobs": _TOP}
        found = []
        for number, back in enumerate(self._answers(questions, [wanted] * len(questions)), 1):
            if isinstance(back, Refused):
                raise UserError(f"endpoint: {self.url}: refuses question {number}: {back.reason}")
            found.append(chances_of(back, words, self.url))
        return found

    def _answers(
        self, questions: Sequence[tuple[Message, ...]], wanted: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """What the server sends back to every question, in order; the first that fails ends the others."""
        asking = self._asking  # its refusal before any thread starts

        def ask(number: int) -> Any:
            turns = instructed(questions[number], self.system)
            messages = messages_of(turns, self.frames, f"question {number + 1}")
            return asking.post({"model": self.model, "messages": messages, **wanted[number]}, stopped)

        stopped, pool = threading.Event(), ThreadPoolExecutor(self.parallel)
        try:
            asked = [pool.submit(ask, number) for number in range(len(questions))]
            done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            failed = [one for one in asked if one in done and one.exception() is not None]
            return [one.result() for one in failed or asked]  # the first that failed raises
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("url: must be an address such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # it goes into records, so that no key may stand in it
        raise ValueError("url: must hold no user, password, query or fragment; key_env names a key")
