"""Models, tokenizers and settings are held against each other before a run's first stage, without reading weights."""

from __future__ import annotations

import warnings

from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, SelfsteerWarning
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import Policy


def check_models(context: RunContext, start: Policy, *, measures: bool) -> None:
    """Raise where a run's models can't do what its recipe asks of them.

    Args:
        measures: Whether the run measures on held-out queries and trains (``generate`` does not).

    Raises:
        InputError: A token has no embedding, the model lacks an adapter's layers, or a length is beyond its context.
        FetchError: A model can't be fetched.
    """
    models, recipe = context.models, context.recipe
    if models.writer:
        models.writer.check_model()
    responder = start if recipe.preferences.source else models.responder_model(start, context.store.display.say)
    trains = measures and recipe.trains
    writes = [] if recipe.preferences.source else [responder]
    if measures and recipe.queries.heldout and not start.weightless:
        writes.append(start)
    if trains and (models.writer or (start not in writes and not recipe.preferences.source)):
        # Raises where weights are missing or of another shape: others would work, and may be paid, before they load.
        from selfsteer.models import load_model

        load_model(start.path, device="meta", **start.options)
    for policy in {one.path: one for one in (start, responder) if not one.weightless}.values():
        models.chat(policy)  # its tokens are held against its embeddings
        _check_model(recipe, policy, writes=policy in writes, trains=trains and policy == start)


def _check_model(recipe: Recipe, policy: Policy, *, writes: bool, trains: bool) -> None:
    from torch import nn

    from selfsteer.models.configs import outline
    from selfsteer.models.rope import context_of
    from selfsteer.policy.adapters import check_adapter

    model = outline(policy.path, **policy.options)
    context = context_of(model.config)
    new = recipe.generation.max_new_tokens
    if writes and context is not None and new >= context:
        what = f"{new} new tokens leave no room for a prompt in the context of {policy.name}, {context} tokens"
        raise ConfigError(what, where="generation.max_new_tokens", do=f"set it well below {context}")
    if trains:
        check_adapter(model, policy.path, recipe.train.lora, where="train.lora")
        length = recipe.train.max_length
        if context is None or length <= context or recipe.writes_itself:  # its own answers keep to its context
            return
        what = f"rows of up to {length} tokens are trained on, beyond the model's context of {context}"
        do = f"set train.max_length={context}: longer responses are cut there"
        # Learned positions have one vector each; some models keep two more for padding.
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        if any(table.num_embeddings in (context, context + 2) for table in tables[1:]):
            raise ConfigError(f"{what}, for which it has no positions", where="train.max_length", do=do)
        warnings.warn(f"{what}: {do}", SelfsteerWarning, stacklevel=2)
