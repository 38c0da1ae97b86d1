"""Self-Steering Optimization (arXiv 2410.17131) on one page: queries in, one aligned model in memory out.

    python examples/sso_loop.py                                        # the embedded 135M model, on CPU
    python examples/sso_loop.py --model ORG/NAME --queries my_queries.jsonl

One round of the method without what `selfsteer run` adds: a store with resume, other backends, guards, reports.
Notation: x is a query, x+ and x- the query under a good and a bad principle; y+, y- and yo are the responses to x+, x-
and x; m(y|x) is the mean log-prob of y under x, in nats per token.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import torch

from selfsteer.backends import Sampling
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.contrast import assemble, requests
from selfsteer.logprobs import ALL_CELLS, PairLogps, score_cells, score_views
from selfsteer.losses import sso_loss
from selfsteer.models import load_model
from selfsteer.principles import (
    PrincipleSet,
    chooser_messages,
    load_set,
    pair_for,
    parse_choice,
    steer,
    steering_message,
)
from selfsteer.quality import apply_filters, clean_response
from selfsteer.queries import load_queries
from selfsteer.records import ROLES, Contrast, Query, Response, SteeredQuery
from selfsteer.views import SSO_VIEWS, View

Views = dict[View, PairLogps]
MAX_LENGTH = 1024  # tokens of the longest prompt + response; longer responses are cut, alike under all three prompts


def steered(queries: Sequence[Query], principles: PrincipleSet, backend: TransformersBackend) -> list[SteeredQuery]:
    """Ask the model which aspect matters for each query, then put that aspect's two principles before the query."""
    role = backend.chat.system_role  # "folded": the template has no system role, so principles go into the user turn
    prompts = [chooser_messages(principles, query.prompt[-1]["content"], 1, role) for query in queries]
    answers = backend.generate(prompts, Sampling(max_new_tokens=24, temperature=0.0, top_p=1.0), seed=0)
    rows = []
    for query, answer in zip(queries, answers, strict=True):
        choice = parse_choice(answer.text, principles, 1)
        pair = pair_for(principles, choice.aspects)
        good, bad = (steer(query.prompt, steering_message(pair, sign), role) for sign in ("positive", "negative"))
        stated = pair.positive_principle, pair.negative_principle
        rows.append(SteeredQuery(query.id, query.prompt, query.split, pair.aspects, choice.outcome, *stated, good, bad))
    return rows


def respond(
    rows: Sequence[SteeredQuery], principles: PrincipleSet, backend: TransformersBackend, max_new_tokens: int
) -> list[Contrast]:
    """Sample y+ under x+, y- under x- and yo under x, clean them, and join each query's three into one row."""
    asked = requests(rows)  # three a query: id, role, prompt
    sampling = Sampling(max_new_tokens, temperature=1.0, top_p=1.0)  # from the policy itself: on-policy data
    sampled = backend.generate([request.prompt for request in asked], sampling, seed=0)
    responses: dict[str, dict[str, Response]] = {row.id: {} for row in rows}
    aspects = {row.id: row.aspects[0] for row in rows}
    for (id, role, _), found in zip(asked, sampled, strict=True):
        raw = Response(id, role, found.text, found.finish, found.token_ids, found.prompt_token_ids)
        labels = principles.adjectives[aspects[id]]  # "Concise answer: ..." would give the principle away
        responses[id][role] = clean_response(raw, backend.chat.decode, labels)
    origin = {"tokenizer": backend.chat.fingerprint}  # the token ids are this tokenizer's own: never re-tokenised
    return [assemble(row, responses[row.id], round=1, provenance=origin) for row in rows]


@torch.inference_mode()
def score(model: torch.nn.Module, rows: Sequence[Contrast]) -> list[Contrast]:
    """Put the mean log-probs of all nine cells, three responses under three prompts, into the rows."""
    sums, counts = score_cells(model, rows, ALL_CELLS, max_length=MAX_LENGTH)  # (B, 9) each
    scored = []
    for row, means in zip(rows, (sums / counts).tolist(), strict=True):
        cells = list(zip(ALL_CELLS, means, strict=True))
        scores = {f"{role}_response": {cell.prompt: m for cell, m in cells if cell.role == role} for role in ROLES}
        scored.append(dataclasses.replace(row, scores=scores))
    return scored


@torch.no_grad()
def views_of(model: torch.nn.Module, chat: Chat, rows: Sequence[Contrast]) -> list[Views]:
    """Return each row's log-probs in the three views of the loss: (x: y+ > y-), (x+: y+ > y-), (x-: yo > y+)."""
    return [score_views(model, chat, [row], max_length=MAX_LENGTH) for row in rows]


def margins(rows: Sequence[Views]) -> str:
    """Return the mean margin of each view over the rows: chosen less rejected, in nats per token."""
    found = {view: [(row[view].chosen_mean - row[view].rejected_mean).item() for row in rows] for view in SSO_VIEWS}
    return ", ".join(f"{view} {sum(own) / len(own):+.3f}" for view, own in found.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Run one round and print what happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a local folder, a hub name or a catalogue name")
    parser.add_argument("--queries", default="builtin:quickstart", help="a shipped set, a file or a hub data set")
    parser.add_argument("--limit", type=int, default=8, help="how many queries")
    parser.add_argument("--principles", default="brief", help="a principle set by name, or a YAML file")
    parser.add_argument("--filters", nargs="*", default=["identical", "leak", "direction"], help="in their order")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="where a response is cut off")
    parser.add_argument("--learning-rate", type=float, default=1.5e-5)
    parser.add_argument("--batch-size", type=int, default=4, help="pairs in an optimiser step")
    args = parser.parse_args(argv)

    model, chat = load_model(args.model), Chat.load(args.model)
    backend, principles = TransformersBackend(model, chat), load_set(args.principles)
    queries = load_queries(args.queries, limit=args.limit).queries
    rows = steered(queries, principles, backend)
    print(f"{len(rows)} queries, steered along: {', '.join(row.aspects[0] for row in rows)}")
    contrasts = respond(rows, principles, backend, args.max_new_tokens)
    # An empty response has no mean log-prob. Everything else is scored, since filters may need the scores.
    scored = score(model, apply_filters(contrasts, []).kept)
    # A "direction" filter keeps the pairs in which a program finds y+ better, here: shorter.
    filters = [{one: {"program": principles.direction}} if one == "direction" else one for one in args.filters]
    report = apply_filters(scored, filters, adjectives=principles.adjectives, harmful=principles.harmful)
    print(f"{len(report.kept)} of {len(contrasts)} pairs kept; by filter: {report.counts}")
    if not (kept := report.kept):
        raise SystemExit("no pair is left to train on: give more queries (--limit) or fewer --filters")

    # Until the first step the policy is its own reference, so one pass over the kept pairs gives the reference.
    before = views_of(model, chat, kept)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    for epoch in (1, 2):
        for start in range(0, len(kept), args.batch_size):
            places = range(start, min(start + args.batch_size, len(kept)))
            losses = []
            for place in places:  # one pair at a time: gradients add up, and memory is that of one pair
                policy = score_views(model, chat, [kept[place]], max_length=MAX_LENGTH)
                found = sso_loss(policy, before[place], base="ipo", beta=0.2, steering_coef=0.1, onpolicy_alpha=0.66)
                (found.loss.mean() / len(places)).backward()
                losses.append(found.loss.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            print(f"epoch {epoch}, pairs {start + 1} to {places[-1] + 1}: loss {sum(losses) / len(losses):.4f}")

    after = views_of(model, chat, kept)
    print(f"margins before: {margins(before)}\nmargins after:  {margins(after)}")


if __name__ == "__main__":
    main()
