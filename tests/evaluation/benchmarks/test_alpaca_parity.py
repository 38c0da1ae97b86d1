"""Our AlpacaEval against the package alpaca_eval, in an environment that has it (``[bench-parity]``)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from selfsteer.evaluation.benchmarks.alpaca_judge import ComparisonPrompt, is_swapped
from selfsteer.evaluation.benchmarks.length_control import LengthControlled
from tests.evaluation.benchmarks.alpaca_data import DATA, GAMED, gamed, needs_data, recorded
from tests.evaluation.benchmarks.test_length_control import lc_of

glm = pytest.importorskip("alpaca_eval.metrics.glm_winrate", reason="alpaca_eval is not installed: [bench-parity]")
pytestmark = [pytest.mark.slow, needs_data]


@pytest.fixture
def reference(monkeypatch, tmp_path):
    """The package's figures of one model, with its rows of the gamed baselines taken from our file."""
    import pandas

    path = tmp_path / "df_gamed.csv"
    path.write_text(GAMED.read_text().replace("generator,", "model,", 1))
    monkeypatch.setattr(glm, "hf_hub_download", lambda **_: str(path))

    def figures(model: str, preferences: list[float]) -> dict[str, float]:
        columns = recorded()[model]
        outputs = {f"output_{side}": ["x" * length for length in columns[f"len_output_{side}"]] for side in (1, 2)}
        names = {"generator_1": "gpt4_1106_preview", "generator_2": model}
        frame = pandas.DataFrame({"preference": preferences, **names, **outputs})
        return glm.get_length_controlled_winrate(frame, save_weights_dir=None)

    return figures


def test_lc_equals_the_package_on_all_models(reference):
    assert len(recorded()) == 58
    for model, columns in recorded().items():
        found = reference(model, columns["preference"])
        assert lc_of(model).value == pytest.approx(found["length_controlled_winrate"], abs=1e-9), model


def test_lc_equals_the_package_where_preferences_are_missing(reference):
    model = "FuseChat-Llama-3.1-8B-Instruct"
    preferences = np.array(recorded()[model]["preference"])
    preferences[[3, 99, 800]] = math.nan
    columns = recorded()[model]
    ours = LengthControlled(
        preferences, columns["len_output_1"], columns["len_output_2"], gamed=gamed(), rows=columns["row"]
    )
    found = reference(model, list(preferences))
    assert ours.value == pytest.approx(found["length_controlled_winrate"], abs=1e-9) and ours.missing == 3


def test_prompts_and_orders_are_the_packages_own(tmp_path):
    """What its annotator asks, on all 805 instructions, caught where it would send them to the server."""
    import alpaca_eval.annotators
    import pandas
    from alpaca_eval.utils import prompt_to_chatml

    (annotator,) = alpaca_eval.annotators.PairwiseAnnotator(
        annotators_config="weighted_alpaca_eval_gpt4_turbo", caching_path=None
    ).annotators.values()
    rows = {name: json.loads((DATA / name / "model_outputs.json").read_text())
            for name in ("gpt4_1106_preview", "Meta-Llama-3-8B-Instruct")}  # fmt: skip
    ours, theirs = rows.values()
    frame = pandas.DataFrame(
        {"instruction": row["instruction"], "output_1": row["output"], "output_2": other["output"]}
        for row, other in zip(ours, theirs, strict=True)
    )
    shown = annotator._preprocess(frame)
    asked, _ = annotator._make_prompts(shown)
    prompt = ComparisonPrompt(DATA / "judge_prompts" / "alpaca_eval_clf.txt")
    equal = 0
    for place, text, swapped in zip(shown.index, asked, shown["is_switched_outputs"], strict=True):  # they are shuffled
        row = frame.loc[place]
        both = (row.output_2, row.output_1) if is_swapped(row.instruction) else (row.output_1, row.output_2)
        assert swapped == is_swapped(row.instruction)
        equal += prompt_to_chatml(text) == prompt.messages(row.instruction, *both)
    assert equal == len(asked) == 805
