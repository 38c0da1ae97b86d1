"""What a run says before its first stage: versions, model, device, precision, and where everything goes."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from selfsteer.errors import SelfsteerError
from selfsteer.stages.context import RunContext
from selfsteer.version import __version__


def opening_lines(context: RunContext) -> list[str]:
    """Return one line on the software and the run directory, and one on the model and what computes with it."""
    models, run_dir = context.models, context.store.run_dir
    if models.weightless:
        return [f"selfsteer {__version__}; run directory {run_dir}", f"backend {models.name}, no model on this machine"]
    import torch

    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    device = torch.device(models.device)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        where = f"on {f'{count} x ' if count > 1 else ''}{torch.cuda.get_device_name(device)}"
    else:
        where = f"on {device} ({torch.get_num_threads()} threads)"
    recipe = context.recipe
    sampling, training = models.precision(recipe.generation.precision), models.precision(recipe.train.precision)
    precision = f"samples in {sampling}" + (f", trains in {training}" if recipe.trains else "")
    return [
        f"selfsteer {__version__}, {libraries}; run directory {run_dir}",
        f"model {models.name}{_parameters(recipe.model.name)}, {where}, {precision}",
    ]


def _parameters(name: str) -> str:
    """Return the number of parameters where the weights are on this machine, by their headers."""
    from selfsteer.estimate.model_shape import source_of, stored_weights

    with suppress(SelfsteerError):  # not fetched yet, or damaged, which the loader says better
        if stored := stored_weights(str(Path(source_of(name)))):
            number = stored.numbers
            return f" ({number / 1e9:.2g}B parameters)" if number >= 1e9 else f" ({number / 1e6:.3g}M parameters)"
    return ""
