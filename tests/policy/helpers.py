"""Contrasts for the tiny policy, a trainer around both, and the numbers it must give, worked out the slow way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.logprobs import PairLogps
from selfsteer.logprobs.score_keys import ScoreKey, settings_key, weights_dtype, weights_key
from selfsteer.policy import SSOConfig, SSOTrainer
from selfsteer.records import PROMPTS, ROLES, Contrast
from selfsteer.views import View
from tests.conftest import build_model

VIEWS = {  # paper, section on the loss: written out here once more, so that a slip in selfsteer.views shows
    View.BASE: ("prompt", "positive", "negative"),
    View.POSITIVE: ("positive_prompt", "positive", "negative"),
    View.NEGATIVE: ("negative_prompt", "original", "positive"),
}
_ANSWERS = [
    ("How do plants make food?", "From light, water and air.", "Plants eat food.", "They make it from light."),
    ("Where does the river run?", "Past the old mill, into the sea.", "It runs.", "Into the sea."),
    ("Is the mill old?", "Yes.", "Many paragraphs on mills.", "The mill is old."),
    ("What is air?", "A mix of gases.", "Air is air and very long and detailed.", "Gases."),
    ("Write one sentence.", "Here is one.", "Sentence sentence sentence.", "One sentence."),
    ("How long is the answer?", "Short.", "A very long and detailed answer.", "It is one short sentence."),
]


TO_TRAINER = ("eval_dataset", "peft_config", "callbacks", "optimizers")


def contrast(number: int = 0, **changes: Any) -> Contrast:
    """One row; the texts repeat from the seventh on."""
    query, positive, negative, original = _ANSWERS[number % len(_ANSWERS)]
    user = {"role": "user", "content": query}
    row = Contrast(
        id=f"q{number}",
        prompt=[user],
        split="train",
        aspects=["Accuracy"],
        positive_principle="Answer in one short sentence.",
        negative_principle="Write many paragraphs.",
        positive_prompt=[{"role": "system", "content": "Answer in one short sentence."}, user],
        negative_prompt=[{"role": "system", "content": "Write many paragraphs."}, user],
        positive_response=positive,
        negative_response=negative,
        original_response=original,
        positive_finish="stop",
        negative_finish="length" if number % 2 else "stop",
        original_finish="stop",
    )
    return dataclasses.replace(row, **changes)


def contrasts(count: int) -> list[Contrast]:
    return [contrast(number) for number in range(count)]


def policy(tokenizer: Any, seed: int = 0, **overrides: Any) -> Any:
    """A tiny Llama whose log-probs are spread enough for a mix-up of rows, roles or prompts to show."""
    model = build_model(tokenizer, seed, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model


def trainer(folder: Path, tokenizer: Any, rows: Any, model: Any = None, **options: Any) -> SSOTrainer:
    """A trainer on the CPU that writes nothing; ``options`` go to SSOConfig, or to SSOTrainer where it takes them."""
    own = {name: options.pop(name) for name in TO_TRAINER if name in options}
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "per_device_train_batch_size": 2,
    }
    return SSOTrainer(
        model=policy(tokenizer) if model is None else model,
        args=SSOConfig(**(settings | options)),
        train_dataset=rows,
        processing_class=tokenizer,
        **own,
    )


def step_logs(run: SSOTrainer) -> list[dict[str, float]]:
    """What was logged for each optimiser step."""
    return [logs for logs in run.state.log_history if "loss" in logs]


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def largest_change(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    assert before.keys() == after.keys()
    return max((after[name] - value).abs().max().item() for name, value in before.items())


def plain_logps(model: Any, tokenizer: Any, rows: Sequence[Contrast]) -> dict[View, PairLogps]:
    """Each view's log-probs by plain transformers, one unpadded sequence a response, with gradients."""
    ids = [with_token_ids(row, Chat(tokenizer)) for row in rows]
    bundles = {}
    for view, (prompt, *roles) in VIEWS.items():
        responses = [[getattr(row, f"{role}_token_ids") for row in ids] for role in roles]
        prompts = [getattr(row, f"{prompt}_token_ids") for row in ids]
        sums = [torch.stack([plain_logp(model, p, r) for p, r in zip(prompts, own, strict=True)]) for own in responses]
        bundles[view] = PairLogps(*sums, *(torch.tensor([len(r) for r in own]) for own in responses))
    return bundles


def plain_logp(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(response)[:, None]).sum()


def with_scores(model: Any, tokenizer: Any, rows: Sequence[Contrast], *, keyed: bool = True) -> list[Contrast]:
    """The rows with the mean log-prob of every response under every prompt and their key, as scoring stores them."""
    scored = []
    weights, settings = weights_key(model), settings_key(max_length=2048, dtype=weights_dtype(model))
    for row in (with_token_ids(row, Chat(tokenizer)) for row in rows):
        with torch.no_grad():
            scores = {
                f"{role}_response": {
                    prompt: plain_logp(model, row.prompt_ids(prompt), row.response_ids(role)).item()
                    / len(row.response_ids(role))
                    for prompt in PROMPTS
                }
                for role in ROLES
            }
        row = dataclasses.replace(row, scores=scores)
        scored.append(ScoreKey.from_row(row, weights, settings).put(row) if keyed else row)
    return scored
