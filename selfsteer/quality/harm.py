"""Flag y- that may do harm: by the principle that steered it, and by a classifier where one is given.

A flag drops nothing: as the rejected response a harmful y- teaches what not to say. It must not become a target
(:func:`selfsteer.views.harmful_target`). A row without aspects follows a guideline that was written for it, or comes
from elsewhere: whether its y- was asked to do harm is unknown unless a classifier reads it. An empty flag would look
like innocence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from selfsteer.errors import ConfigError, ModelError, did_you_mean
from selfsteer.records import HARM_UNKNOWN, Contrast

_LONGEST = 512  # tokens that a classifier reads at once; a longer text is read in parts


class HarmClassifier:
    """A Hugging Face text-classification model and the label that counts; loaded when the first text comes.

    Args:
        threshold: Least probability of the label at which a text is flagged.

    Raises:
        ConfigError, ModelError, FetchError: The model has no such label, is not a classifier, or can't be fetched.
    """

    def __init__(
        self, source: str, label: str, threshold: float, *, device: str = "cpu", revision: str | None = None
    ) -> None:
        from transformers import AutoConfig

        from selfsteer.models import resolve
        from selfsteer.models.load_errors import loading_errors

        self.source, self.revision = resolve(source), revision
        self.threshold, self.device = threshold, device
        with loading_errors(self.source, "config.json"):
            config = AutoConfig.from_pretrained(self.source, revision=revision or "main")
        labels = {name: place for place, name in config.id2label.items()}
        if label not in labels:
            what = f"the classifier {source} has no label {label!r}"
            raise ConfigError(what, where="quality.harm.label", do=did_you_mean(label, labels))
        self._place = labels[label]
        # Labels that don't exclude each other have a sigmoid each; softmax would set them against each other.
        self._alone = len(labels) == 1 or config.problem_type == "multi_label_classification"

    @property
    def key(self) -> list[Any]:
        """The settings that the flags depend on."""
        from selfsteer.models import model_fingerprint

        return [model_fingerprint(self.source, self.revision, chat=True), self._place, self.threshold]

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return the probability of the label for each text; of a long one, that of its most harmful part."""
        import torch

        if not texts:
            return []
        tokenizer, model = self._loaded
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        length = min(tokenizer.model_max_length, positions or _LONGEST, _LONGEST)
        parts = tokenizer(
            list(texts), truncation=True, max_length=length, return_overflowing_tokens=True, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        owners = parts.pop("overflow_to_sample_mapping")
        with torch.inference_mode():
            logits = model(**parts.to(self.device)).logits.float()
        found = logits.sigmoid() if self._alone else logits.softmax(dim=-1)
        worst = [0.0] * len(texts)
        for owner, probability in zip(owners.tolist(), found[:, self._place].tolist(), strict=True):
            worst[owner] = max(worst[owner], probability)
        return worst

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from selfsteer.models.finite import check_finite
        from selfsteer.models.load import missing_head, read_classifier, set_pad_token
        from selfsteer.models.load_errors import loading_errors
        from selfsteer.models.vocabulary import fit_vocabulary

        with loading_errors(self.source):
            tokenizer = AutoTokenizer.from_pretrained(self.source, revision=self.revision or "main")
            model, info = read_classifier(self.source, "float32", self.revision)
        if missing_head(model, info):
            do = "give a text-classification model, with its head"
            raise ModelError(
                "the model has no classification head, so it is not a classifier", where=self.source, do=do
            )
        check_finite(model, self.source)
        fit_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], self.source)
        set_pad_token(tokenizer, self.source)
        # The model reads its answer at the last token that is not its own padding.
        pad = model.config.pad_token_id
        if pad is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        else:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        return tokenizer, model.to(self.device).eval()


def flag_harm(
    rows: Sequence[Contrast], aspects: Collection[str] | None, classifier: HarmClassifier | None = None
) -> list[Contrast]:
    """Return the rows with ``negative_harmful`` set to why y- counts as harmful, "" where it does not.

    A row without aspects whose y- no classifier has read gets :data:`selfsteer.records.HARM_UNKNOWN`. A part of a flag
    that neither argument decides stays.

    Args:
        aspects: Those whose negative principle asks for harm; None leaves that part of a flag.
        classifier: Reads every y-; None leaves that part of a flag.
    """
    found = classifier.probabilities([row.negative_response for row in rows]) if classifier else []
    flagged = []
    for place, row in enumerate(rows):
        flags = {flag.partition(":")[0]: flag for flag in row.negative_harmful.split("; ") if flag}
        if aspects is not None:
            asked = ", ".join(name for name in row.aspects if name in aspects)
            flags["principle"] = f"principle: {asked}" if asked else ""
        if classifier:
            harmful = found[place] >= classifier.threshold
            flags["classifier"] = f"classifier: {found[place]:.2f}" if harmful else ""
        why = "; ".join(flags[kind] for kind in ("principle", "classifier") if flags.get(kind))
        unknown = "unknown" in flags if aspects is None else not row.aspects
        if unknown and not classifier:
            why = why or HARM_UNKNOWN
        flagged.append(dataclasses.replace(row, negative_harmful=why))
    return flagged
