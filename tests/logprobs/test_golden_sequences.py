"""The embedded model's log-probs, as an independent implementation computed them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from selfsteer.errors import FetchError
from selfsteer.logprobs import PromptRow, score_responses
from selfsteer.models import load_model, resolve

SEQUENCES = Path(__file__).parents[3] / "shared" / "golden" / "sequences.json"


@pytest.fixture(scope="module")
def golden():
    """The examples' sequences by prompt: ``{prompt: [(response, its log-prob, the perturbed model's), ...]}``."""
    if not SEQUENCES.is_file():
        pytest.skip(f"no golden files at {SEQUENCES}")
    examples = []
    for example in json.loads(SEQUENCES.read_text())["examples"]:
        prompts: dict[tuple[int, ...], list] = {}
        for row in example["rows"]:
            ids, start = row["input_ids"], row["response_start"]
            assert len(ids) - start == row["response_len"]
            prompts.setdefault(tuple(ids[:start]), []).append((ids[start:], row["logp_base"], row["logp_perturbed"]))
        examples.append(prompts)
    return examples


@pytest.fixture(scope="module")
def model():
    try:
        folder = resolve("smollm2-135m")
    except FetchError as error:
        pytest.skip(f"the embedded model can't be fetched: {error.what}")
    return load_model(folder, dtype="float32").requires_grad_(False)


@pytest.mark.weights
@pytest.mark.parametrize("scale", [1.0, 1.01], ids=["base", "perturbed"])
def test_prompt_sharing_rows_reproduce_the_log_probs_of_sequences(golden, model, scale):
    found, expected = [], []
    try:
        for parameter in model.parameters():
            parameter.mul_(scale)
        for prompts in golden:
            assert len(prompts) == 3
            assert all(len(responses) == 2 for responses in prompts.values())
            rows = [PromptRow(prompt, [item[0] for item in responses]) for prompt, responses in prompts.items()]
            found += torch.cat(score_responses(model, rows)).tolist()
            expected += [item[1 if scale == 1.0 else 2] for responses in prompts.values() for item in responses]
    finally:
        for parameter in model.parameters():
            parameter.div_(scale)
    assert len(expected) == 18
    assert found == pytest.approx(expected, abs=1e-3)
