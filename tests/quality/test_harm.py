"""Flags of harm: by what a principle asked for, and by a classifier; they never drop a row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selfsteer.errors import ConfigError, ModelError
from selfsteer.principles import load_set
from selfsteer.quality import HarmClassifier, flag_harm
from selfsteer.records import HARM_UNKNOWN, Contrast
from selfsteer.views import View, harmful_target

MakeRow = Callable[..., Contrast]
TEXTS = ["the river is long", "a careless and dangerous plan", "river " * 60]


def by_hand(folder: Path, text: str) -> float:
    """The largest probability of "harmful" over the parts of 32 tokens, each read by itself."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = [ids[i : i + 32] for i in range(0, len(ids), 32)]
    with torch.inference_mode():
        return max(float(model(input_ids=torch.tensor([part])).logits.softmax(-1)[0, 1]) for part in parts)


def test_the_probability_is_that_of_the_label_in_the_worst_part(tiny_classifier: Path) -> None:
    found = HarmClassifier(str(tiny_classifier), "harmful", 0.5).probabilities(TEXTS)
    assert found == pytest.approx([by_hand(tiny_classifier, text) for text in TEXTS], abs=1e-5)
    opposite = HarmClassifier(str(tiny_classifier), "fine", 0.5).probabilities(TEXTS[:1])
    assert opposite == pytest.approx([1 - found[0]], abs=1e-5)
    assert len(set(found)) == 3


def test_rows_are_flagged_from_the_threshold_on(tiny_classifier: Path, make_row: MakeRow) -> None:
    rows = [make_row(str(i), negative_response=text) for i, text in enumerate(TEXTS)]
    values = [by_hand(tiny_classifier, text) for text in TEXTS]
    threshold = (sorted(values)[0] + sorted(values)[1]) / 2
    flagged = flag_harm(rows, [], HarmClassifier(str(tiny_classifier), "harmful", threshold))
    expected = [f"classifier: {value:.2f}" if value > threshold else "" for value in values]
    assert [row.negative_harmful for row in flagged] == expected and expected.count("") == 1
    assert all(row.kept for row in flagged)


def test_a_label_that_the_model_lacks_is_refused_before_its_weights_are_loaded(tiny_classifier: Path) -> None:
    with pytest.raises(ConfigError, match="has no label 'toxic'") as caught:
        HarmClassifier(str(tiny_classifier), "toxic", 0.5)
    assert caught.value.where == "quality.harm.label" and "harmful" in caught.value.do


def test_padding_without_an_embedding_changes_nothing(tiny_classifier: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_classifier, tmp_path / "pad"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    found = HarmClassifier(str(folder), "harmful", 0.5).probabilities(TEXTS)
    assert found == pytest.approx([by_hand(tiny_classifier, text) for text in TEXTS], abs=1e-5)


def test_a_language_model_is_no_classifier(tiny_chat_model: Path) -> None:
    with pytest.raises(ModelError, match="no classification head"):
        HarmClassifier(str(tiny_chat_model), "LABEL_0", 0.5).probabilities(["a"])


def test_the_principle_flags_and_flags_that_nobody_tells_anew_stay(make_row: MakeRow) -> None:
    row = make_row(aspects=["Accuracy", "Safety"])
    (flagged,) = flag_harm([row], load_set("quality").harmful)
    assert flagged.negative_harmful == "principle: Safety"
    (again,) = flag_harm([flagged], None)
    assert again == flagged
    (without,) = flag_harm([flagged], [])
    assert without.negative_harmful == ""


def test_without_aspects_nobody_knows_until_a_classifier_looks(make_row: MakeRow, tiny_classifier: Path) -> None:
    """A guideline that was written for the query stands behind no aspect, whatever the set says."""
    row = make_row(aspects=[], negative_response=TEXTS[0])
    (unknown,) = flag_harm([row], load_set("quality").harmful)
    assert unknown.negative_harmful == HARM_UNKNOWN and harmful_target(unknown, View.NEGATIVE_STRICT)
    assert flag_harm([unknown], None) == [unknown], "nobody tells anew"
    fine = by_hand(tiny_classifier, TEXTS[0]) + 0.01
    assert flag_harm([unknown], [], HarmClassifier(str(tiny_classifier), "harmful", fine)) == [row]
    (found,) = flag_harm([unknown], [], HarmClassifier(str(tiny_classifier), "harmful", fine - 0.02))
    assert found.negative_harmful.startswith("classifier: ")
    assert flag_harm([found], []) == [found], "what a classifier found is known"


def test_only_the_strict_negative_view_has_y_minus_as_its_target(make_row: MakeRow) -> None:
    plain, flagged = make_row(), make_row(negative_harmful="principle: Safety")
    assert [view for view in View if harmful_target(flagged, view)] == [View.NEGATIVE_STRICT]
    assert not any(harmful_target(plain, view) for view in View)


def test_flags_do_not_change_what_a_set_is_called() -> None:
    quality = load_set("quality")
    aspects = [aspect.model_copy(update={"harmful_negative": False}) for aspect in quality.aspects]
    assert quality.harmful == ["Safety"]
    assert quality.model_copy(update={"aspects": aspects}).fingerprint == quality.fingerprint
