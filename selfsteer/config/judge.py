"""The sections `judge` and `evaluation`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from selfsteer.config.base import BaseUrl, Natural, Positive, Section, conflict
from selfsteer.config.generation import LocalModelSettings


class JudgeSettings(LocalModelSettings):
    """Who says which of two responses is better. ``judge: NAME`` is short for ``judge: {name: NAME}``."""

    name: str | None = None
    """A chat model (catalogue name, folder, hub name), ``reward:MODEL``, ``implicit:POLICY@REFERENCE``,
    ``endpoint:MODEL`` or ``program:PROGRAM``."""
    per_token: bool | None = None
    """``implicit:`` compares means per token, or (false) sums. Default: as the loss that trained the policy, which its
    folder names; else sums."""
    mode: Literal["logprobs", "text"] = "logprobs"
    """How a language model answers: by the log-probs of the two labels, or by what it writes."""
    max_tokens: Positive | None = None
    """Mode text: tokens of a reply, thoughts included (default: 16, and 2,048 more where the model may think)."""
    template: str | None = None
    """A Jinja file of your own for the question."""
    by: Literal["overall", "aspects"] = "overall"
    """What it is asked to judge by: overall quality, or the aspects that a row was steered by."""
    base_url: BaseUrl | None = None
    """Where the endpoint is (default: OPENAI_BASE_URL)."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's key."""

    @model_validator(mode="after")
    def _of_this_mode(self) -> JudgeSettings:
        if self.max_tokens is not None and self.mode != "text":
            raise conflict("max_tokens is about what a judge writes: set mode: text", "max_tokens")
        return self


class EvaluationSettings(Section):
    """What is measured before and after: on the held-out queries, and on benchmarks."""

    direction: str | None = None
    """Program that says which way y+ must differ from y- (default: what the principle set names)."""
    per_token: bool | None = None
    """Implicit rewards are means per token, or (false) sums. Default: as ``train.base_loss`` compares them."""
    samples: Natural = 3
    """How many queries the report shows side by side."""
    suites: list[str] = []
    """Suites and benchmarks of `selfsteer evaluate model`, for the first and the last policy; ``judge`` judges them."""
    data_dir: str | None = None
    """Folder of the benchmarks' data (default: the downloaded ones)."""
    limit: Positive | None = None
    """Size of a random sample of each benchmark's questions (default: all)."""

    @model_validator(mode="after")
    def _of_benchmarks(self) -> EvaluationSettings:
        for key in ("data_dir", "limit"):
            if getattr(self, key) is not None and not self.suites:
                raise conflict(f"{key} is about benchmarks, and none is named: set suites", key, "suites")
        return self
