"""Our AlpacaEval against the package alpaca_eval, in an environment that has it (``[bench-parity]``)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfsteer.evaluation.benchmarks.length_control import LengthControlled
from tests.evaluation.benchmarks.alpaca_data import GAMED, gamed, needs_data, recorded
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
