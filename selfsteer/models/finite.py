"""Whether a model's weights are numbers: NaN and infinity come from a training that diverged, or from damage.

Every text sampled from such a model would be noise, or an error out of torch. The check reads each weight once: 0.02 s
for 135 million in float32 on one core, beside 0.06 s and more for loading them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsteer.errors import ModelError
from selfsteer.models.load_errors import loading_errors

if TYPE_CHECKING:
    from torch import Tensor


def check_finite(model: Any, source: str) -> None:
    """Raise :class:`ModelError` where a weight of a loaded model is NaN or infinite. Packed weights are not read."""
    _check(((name, weight.detach()) for name, weight in model.named_parameters()), source)


def check_finite_files(source: str, *, revision: str | None = None, cache: str | None = None) -> None:
    """As :func:`check_finite`, for the safetensors of a model that something else loads; one tensor at a time.

    Args:
        source: A folder, or a hub name: its weights are fetched if the hub's cache does not have them.
        revision: Of a hub name.
        cache: Folder of the hub's files, in place of the default one.

    Raises:
        ModelError: A weight is NaN or infinite, or a file can't be read.
        FetchError: The hub can't be reached.
    """
    from safetensors import safe_open

    folder = Path(source)
    if not folder.exists():
        from huggingface_hub import snapshot_download

        with loading_errors(source):  # the files that vLLM reads as well; "original" has the weights a second time
            found = snapshot_download(
                source,
                revision=revision,
                cache_dir=cache,
                allow_patterns="*.safetensors",
                ignore_patterns="original/**",
            )
        folder = Path(found)
    for path in sorted(folder.glob("*.safetensors")):
        with loading_errors(source, path.name), safe_open(path, framework="pt") as stored:
            _check(((name, stored.get_tensor(name)) for name in stored.keys()), source)  # noqa: SIM118  # not a dict


def _check(weights: Iterable[tuple[str, Tensor]], source: str) -> None:
    import torch

    names, extremes = [], []
    for name, weight in weights:
        if weight.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64) and weight.numel():
            names.append(name)
            # Both are NaN where any number is, so that this is faster than isfinite, which writes a mask.
            extremes.append(torch.stack(weight.aminmax()).float())
    if not names:
        return
    good = torch.isfinite(torch.stack(extremes)).all(dim=-1).tolist()  # one transfer from a GPU
    bad = [name for name, fine in zip(names, good, strict=True) if not fine]
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        what = f"weights of {source} are NaN or infinite: in {bad[0]}{others}"
        do = (
            "a training that diverged may have left them: take the model from before it, or train again with a lower "
            "learning rate; else copy the model again (in float16 large weights overflow: take bfloat16 or float32)"
        )
        raise ModelError(what, where=source, do=do)
