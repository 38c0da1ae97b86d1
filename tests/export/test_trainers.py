"""Trainers take the exports as they are: TRL's by its formats, SSOTrainer by its own rows."""

from __future__ import annotations

import datasets
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from selfsteer.views import View
from tests.conftest import build_model, build_tokenizer
from tests.example_rows import scores
from tests.export.helpers import to_folder
from tests.policy.helpers import contrast, contrasts, policy, trainer, with_scores

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL calls it so

ROWS = 4
SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "dataloader_pin_memory": False,
}


def rows():
    cells = scores((-1.5, -0.5, -2.0), (-0.25, -3.0, -1.0))
    # Half with scores and half without, as where some rows were too long to be scored.
    return [contrast(number, scores=cells if number % 2 else None) for number in range(ROWS)]


def exported(tmp_path, **order):
    folder = to_folder(rows(), tmp_path / "set", **order)
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def train(made):
    """Train two steps; the weights must move, and nothing may be dropped on the way."""
    before = weights(made.model)
    result = made.train()
    after = weights(made.model)
    assert max((after[name] - before[name]).abs().max().item() for name in after) > 1e-4
    assert torch.isfinite(torch.tensor(result.training_loss))
    return result


def dpo(tmp_path, data):
    from trl import DPOConfig, DPOTrainer

    tokenizer = build_tokenizer()
    return tokenizer, DPOTrainer(
        model=build_model(tokenizer),
        ref_model=build_model(tokenizer),
        args=DPOConfig(output_dir=str(tmp_path / "out"), max_length=256, **SETTINGS),
        train_dataset=data,
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("full", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_dpo_trainer_trains_on_the_pairs(tmp_path, full):
    tokenizer, made = dpo(tmp_path, exported(tmp_path, format="trl", full=full))
    assert len(made.train_dataset) == ROWS
    first, source = made.train_dataset[0], rows()[0]
    assert tokenizer.decode(first["prompt_ids"]) == tokenizer.apply_chat_template(
        source.prompt, tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(first["chosen_ids"]).startswith(source.positive_response)
    assert tokenizer.decode(first["rejected_ids"]).startswith(source.negative_response)
    train(made)


@pytest.mark.slow
@pytest.mark.parametrize(("view", "chosen"), [(View.POSITIVE, "positive"), (View.NEGATIVE, "original")])
def test_dpo_trainer_trains_on_the_other_views(tmp_path, view, chosen):
    tokenizer, made = dpo(tmp_path, exported(tmp_path, format="trl", view=view))
    first, source = made.train_dataset[0], rows()[0]
    own = source.positive_principle if view is View.POSITIVE else source.negative_principle
    assert own in tokenizer.decode(first["prompt_ids"])
    assert tokenizer.decode(first["chosen_ids"]).startswith(getattr(source, f"{chosen}_response"))
    train(made)


def test_a_cut_response_gets_an_end_that_the_export_can_only_warn_of(tmp_path):
    """What the note and `--finished` are for: TRL's chat template ends every response."""
    data = exported(tmp_path, format="trl")
    cut = data[1]
    assert (cut["chosen_finish"], cut["rejected_finish"]) == ("stop", "length")
    tokenizer, made = dpo(tmp_path, data)
    assert tokenizer.eos_token in tokenizer.decode(made.train_dataset[1]["rejected_ids"])


def test_reward_trainer_trains_on_the_pairs(tmp_path):
    from trl import RewardConfig, RewardTrainer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id, num_labels=1,
    )  # fmt: skip
    made = RewardTrainer(
        model=LlamaForSequenceClassification(config),
        args=RewardConfig(output_dir=str(tmp_path / "out"), max_length=256, **SETTINGS),
        train_dataset=exported(tmp_path, format="trl"),
        processing_class=tokenizer,
    )
    assert len(made.train_dataset) == ROWS
    assert rows()[0].positive_response in tokenizer.decode(made.train_dataset[0]["chosen_ids"])
    train(made)


@pytest.mark.slow
def test_kto_trainer_trains_on_unpaired_rows(tmp_path):
    from trl import KTOConfig, KTOTrainer

    tokenizer = build_tokenizer()
    made = KTOTrainer(
        model=build_model(tokenizer),
        ref_model=build_model(tokenizer),
        args=KTOConfig(output_dir=str(tmp_path / "out"), max_length=256, **SETTINGS),
        train_dataset=exported(tmp_path, format="trl-unpaired"),
        processing_class=tokenizer,
    )
    assert len(made.train_dataset) == 2 * ROWS
    assert sum(made.train_dataset["label"]) == ROWS
    train(made)


def test_sso_trainer_trains_on_exported_contrasts_and_on_their_scores(tmp_path):
    """Scores that it could not use would be a warning, and our own warnings are errors here."""
    tokenizer = build_tokenizer()
    model = policy(tokenizer)
    folder = to_folder(with_scores(model, tokenizer, contrasts(ROWS)), tmp_path / "set", format="contrast")
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    made = trainer(tmp_path, tokenizer, data, model, max_steps=2)
    assert made.train_dataset.contrasts[0].scores == data[0]["scores"] is not None
    train(made)
    assert made.state.global_step == 2
