"""Time and memory of one SSO training step: six separate padded sequences against prompt-sharing rows.

    python benchmarks/train_step.py

(a) works as the authors' trainer does: two padded batches of three sequences an example, full float32 logits, and a
reference forward pass in every step, written here in plain transformers. (c) is ours: packed rows, head on response
tokens, reference scored once (its cost is printed apart). Both run in one process, interleaved, on the same contrasts;
the losses have to agree. Report ratios: times on a shared machine move.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.logprobs import PairLogps, pair_views, row_attention_on, score_cells, view_cells
from selfsteer.losses import sso_loss
from selfsteer.models import load_model, load_tokenizer, quiet, resolve
from selfsteer.queries import load_queries
from selfsteer.records import Contrast
from selfsteer.views import PAIRINGS, SSO_VIEWS, View

CELLS = view_cells(SSO_VIEWS)
GOOD = "Answer in one short sentence of at most 20 words. Stop as soon as the question is answered."
BAD = "Write a very long and detailed answer with many paragraphs. Give many examples and say everything twice."


def contrasts(chat: Chat, count: int, tokens: int) -> list[Contrast]:
    """Real queries with responses of known length (their text does not matter for the time)."""
    rows = []
    for query in load_queries("builtin:quickstart", limit=count).queries:
        text = query.prompt[-1]["content"]
        words = (text + " ") * (1 + 2 * tokens // max(1, len(text.split())))
        ids = chat.encode_response(words, ended=False)
        prompts = [[{"role": "system", "content": system}, *query.prompt] for system in (GOOD, BAD)]
        row = Contrast(
            id=query.id, prompt=query.prompt, split="train", aspects=[], positive_principle=GOOD,
            negative_principle=BAD, positive_prompt=prompts[0], negative_prompt=prompts[1],
            positive_response=text, negative_response=text, original_response=text,
            positive_finish="length", negative_finish="length", original_finish="length",
        )  # fmt: skip
        row = with_token_ids(row, chat)
        lengths = {"positive": tokens // 2, "negative": tokens, "original": tokens}
        rows.append(dataclasses.replace(row, **{f"{r}_token_ids": ids[5 : 5 + n] for r, n in lengths.items()}))
    return rows


def padded(model: Any, rows: Sequence[Contrast], role: str) -> dict[View, torch.Tensor]:
    """One padded batch of the chosen (or the rejected) responses of all views, full float32 logits."""
    picked = [(getattr(PAIRINGS[view], role), PAIRINGS[view].prompt) for view in SSO_VIEWS]
    pairs = [(row.prompt_ids(prompt), row.response_ids(name)) for row in rows for name, prompt in picked]
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.tensor([[*p, *r, *[2] * (width - len(p) - len(r))] for p, r in pairs])
    mask = torch.tensor([[1] * (len(p) + len(r)) + [0] * (width - len(p) - len(r)) for p, r in pairs])
    logps = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
    logps = logps[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    sums = torch.stack([logps[i, len(p) - 1 : len(p) + len(r) - 1].sum() for i, (p, r) in enumerate(pairs)])
    return dict(zip(SSO_VIEWS, sums.view(len(rows), -1).T, strict=True))


def plain_step(model: Any, rows: Sequence[Contrast], reference_model: Any) -> torch.Tensor:
    """(a): policy and reference forward, loss, backward."""
    policy = {role: padded(model, rows, role) for role in ("chosen", "rejected")}
    with torch.no_grad():
        reference = {role: padded(reference_model, rows, role) for role in ("chosen", "rejected")}
    lengths = {
        view: [torch.tensor([len(row.response_ids(getattr(PAIRINGS[view], role))) for row in rows]) for role in policy]
        for view in SSO_VIEWS
    }
    pairs = [
        {view: PairLogps(side["chosen"][view], side["rejected"][view], *lengths[view]) for view in SSO_VIEWS}
        for side in (policy, reference)
    ]
    loss = sso_loss(*pairs).loss.mean()
    loss.backward()
    return loss.detach()


def shared_step(model: Any, rows: Sequence[Contrast], reference: torch.Tensor) -> torch.Tensor:
    """(c): packed rows, stored reference, loss, backward."""
    sums, counts = score_cells(model, rows, CELLS, token_budget=1 << 20)
    pairs = [pair_views(side, counts, CELLS, SSO_VIEWS) for side in (sums, reference)]
    loss = sso_loss(*pairs).loss.mean()
    loss.backward()
    return loss.detach()


def timed(step: Any, model: Any, *arguments: Any) -> tuple[float, torch.Tensor]:
    """Seconds and loss of one step."""
    model.zero_grad()
    started = time.perf_counter()
    loss = step(model, *arguments)
    return time.perf_counter() - started, loss


def main() -> None:
    """Print seconds an example, the ratio and the largest difference of the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="length of y- and yo; y+ has half")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    settings = parser.parse_args()
    quiet()
    folder = resolve(settings.model)
    chat = Chat(load_tokenizer(folder))
    model, reference_model = load_model(folder).train(), load_model(folder)
    rows = contrasts(chat, settings.examples, settings.tokens)
    batches = [rows[i : i + settings.batch] for i in range(0, len(rows), settings.batch)]
    print(f"{settings.examples} examples, {settings.tokens} tokens, {torch.get_num_threads()} threads")
    for name, enabled in (("float32", False), ("bfloat16 autocast", True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled), row_attention_on(model):
            measure(name, model, reference_model, batches, settings.repeats)


def measure(name: str, model: Any, reference_model: Any, batches: Sequence[Sequence[Contrast]], repeats: int) -> None:
    """Interleave both ways over the batches; the first pass warms up and is not counted."""
    seconds: dict[str, list[float]] = {"a": [], "c": [], "reference": []}
    worst = 0.0
    for repeat in range(repeats + 1):
        for batch in batches:
            model.set_attn_implementation("sdpa")
            plain, one = timed(plain_step, model, batch, reference_model)
            model.set_attn_implementation("selfsteer_rows")
            started = time.perf_counter()
            with torch.no_grad():
                reference = score_cells(model, batch, CELLS)[0]
            scored = time.perf_counter() - started
            shared, other = timed(shared_step, model, batch, reference)
            worst = max(worst, abs(one.item() - other.item()) / abs(one.item()))
            if repeat:
                for key, value in (("a", plain), ("c", shared), ("reference", scored)):
                    seconds[key].append(value / len(batch))
    plain, shared, scored = (statistics.median(seconds[key]) for key in ("a", "c", "reference"))
    print(
        f"{name}: (a) {plain:.2f} s an example, (c) {shared:.2f} s + {scored:.2f} s once for the reference: "
        f"{plain / shared:.2f} times as fast; losses differ by {worst:.1e} (relative)"
    )


if __name__ == "__main__":
    main()
