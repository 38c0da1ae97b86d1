"""`selfsteer score`: read the rows of a file and write them with their rewards."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from selfsteer.config import LocalModelSettings
from selfsteer.errors import ConfigError, DataError, PromptRefused
from selfsteer.files import GroupSync, cut_torn_line, fingerprint, parse_json, remove, storage_errors
from selfsteer.judges.loading import scoring_model
from selfsteer.judges.pair_datasets import is_pair, pair_of
from selfsteer.queries import is_hub, source_fingerprint, source_rows
from selfsteer.queries.messages import Cells, Unusable, is_missing, is_text, read_messages
from selfsteer.queries.prompt_forms import COLUMNS
from selfsteer.records import Message
from selfsteer.reward.scoring import TokenIds
from selfsteer.runs.store import locked
from selfsteer.stages.preferences import better_and_worse

_AT_ONCE = 256
"""Rows in memory, and the most that an interrupted command repeats; a power cut costs those of a second more."""


def score_file(
    model: str,
    file: Path,
    output: Path,
    *,
    hardware: LocalModelSettings,
    batch_size: int,
    overwrite: bool,
    note: Callable[[str], None],
) -> RowTally:
    """Write each row of ``file`` to ``output`` with its rewards, in the same order; memory stays flat.

    A row has a conversation that ends with the assistant's message, or a prompt with ``response``, ``completion`` or
    ``output``, and gets ``reward``; or a prompt and ``responses``, and gets ``rewards``; or any form of a preference
    pair that `selfsteer judge` reads, and gets ``reward_chosen`` and ``reward_rejected`` (``rewards`` where it has no
    winner). A row that can't be scored, or not be written as JSON, gets ``error`` and is counted.

    Args:
        file: A file or a folder, as of :func:`selfsteer.queries.load_queries`.
        output: The .jsonl file, which appears when it is complete. An interrupted call resumes if ``file``, the model
            and the hardware are the same.
        batch_size: Conversations in one forward pass.
        note: Takes a sentence on the rows that an earlier call left.

    Raises:
        ConfigError: ``output`` exists, or is not a .jsonl file.
        DataError: ``file`` can't be read, or no row can be scored.
        ModelError, FetchError: The model can't be used.
        WorkFailed: Another process is writing ``output``.
    """
    if output.suffix != ".jsonl":
        raise ConfigError(f"{output} is not a .jsonl file", where="--output", do="give a name that ends in .jsonl")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} already exists", where="--output", do="choose another name, or add --overwrite")
    next(_rows(file), None)  # raises for an unreadable file before anything is created
    scorer = _Scorer(model, hardware, batch_size)
    part = output.with_name(f".{output.name}.part")
    with storage_errors(output), locked(part, "output", "--output"):
        lines = part / f"{fingerprint([source_fingerprint(str(file)), *scorer.depends])}.jsonl"
        tally = _write(lines, file, scorer, note)
        if tally.scored:
            lines.replace(output)
        remove(part)
    if not tally.scored:
        what = f"none of {tally.count} rows can be scored: {tally.first or 'the file is empty'}"
        raise DataError(what, where=str(file), do="see `selfsteer score --help` for the forms of rows")
    return tally


def _write(lines: Path, file: Path, scorer: _Scorer, note: Callable[[str], None]) -> RowTally:
    """Write the rows that ``lines`` lacks; those that an interrupted command wrote are counted, not scored again."""
    rows, tally, disk = _rows(file), RowTally(), GroupSync()
    cut_torn_line(lines)
    # Half of a surrogate pair, in a row that gets an error, is written as JSON's own escape.
    with lines.open("a+", encoding="utf-8", errors="backslashreplace") as stream:
        stream.seek(0)
        for line, (where, _) in zip(stream, rows, strict=False):
            tally.add(parse_json(line).get("error", "").removeprefix(f"{where}: "), where)
        if tally.count:
            note(f"resuming after {tally.count} rows of an earlier call")
        while chunk := list(itertools.islice(rows, _AT_ONCE)):
            # All are rendered first, so that a row that can't be rendered stops no other.
            rendered = [_rendered(cells, scorer) for _, cells in chunk]
            texts = [ids for own in rendered if isinstance(own, dict) for many in own.values() for ids in many]
            scores = scorer.score(texts)
            for (where, cells), own in zip(chunk, rendered, strict=True):
                row, problem = _scored(cells, own, scores)
                row |= {"error": f"{where}: {problem}"} if problem else {}
                stream.write(_line(row) + "\n")
                tally.add(problem, where)
            stream.flush()
            disk.add(lines)
    disk.sync()
    return tally


def _line(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):  # of a row too deep, or with an integer too long, the error is left
        return json.dumps({"error": row["error"]})


def _unwritable(cells: Any) -> str:
    """Return why a row can't be written as JSON, "" where it can."""
    try:
        text = json.dumps(cells, ensure_ascii=False, default=str)
    except (RecursionError, ValueError) as error:
        return f"it can't be written as JSON: {error}"
    return "" if is_text(text) else "broken text (half of a surrogate pair)"


class RowTally:
    """Number of rows, and the problems of those that can't be scored."""

    def __init__(self) -> None:
        self.count, self.first, self.problems = 0, "", Counter[str]()

    def add(self, problem: str, where: str) -> None:
        """Count a row, with "" as the problem of one that was scored."""
        self.count += 1
        if problem:
            self.problems[problem] += 1
            self.first = self.first or f"{where}: {problem}"

    @property
    def scored(self) -> int:
        """Number of rows with a reward."""
        return self.count - self.problems.total()


class _Scorer:
    """A reward model, loaded when the first row is scored."""

    def __init__(self, model: str, hardware: LocalModelSettings, batch_size: int) -> None:
        from selfsteer.models.rope import context_of
        from selfsteer.reward.loading import reward_config

        self._batch_size, self._local = batch_size, scoring_model(hardware, model, "--device")
        self.longest = context_of(reward_config(self._local.source, **self._local.options))
        self.template = self._local.chat.template
        self.where = model

    @property
    def depends(self) -> list[str]:
        """The model's part of what rewards depend on; the batch size does not change them."""
        return [self._local.fingerprint, self._local.device]

    @cached_property
    def _model(self) -> Any:
        from selfsteer.reward.loading import load_reward_model

        local = self._local
        return load_reward_model(local.source, device=local.device, dtype=local.dtype, **local.options)

    def score(self, conversations: Sequence[TokenIds]) -> dict[TokenIds, float]:
        """Return the reward of each conversation, by its token ids."""
        from selfsteer.reward.scoring import score_ids

        return score_ids(self._model, conversations, batch_size=self._batch_size) if conversations else {}


def _scored(
    cells: Any, own: dict[str, list[TokenIds]] | str, scores: dict[TokenIds, float]
) -> tuple[dict[str, Any], str]:
    """Return a row with its rewards and "", or without them and why it has none."""
    plain = dict(cells) if isinstance(cells, dict) else {"row": cells}
    if isinstance(own, str):
        return plain, own
    rewards = {name: [scores[ids] for ids in many] for name, many in own.items()}
    if not all(math.isfinite(value) for values in rewards.values() for value in values):
        return plain, "its reward is not finite: half precision may overflow"
    plain.pop("error", None)  # of an earlier scoring
    return plain | {name: values if name == "rewards" else values[0] for name, values in rewards.items()}, ""


def _rendered(cells: Any, scorer: _Scorer) -> dict[str, list[TokenIds]] | str:
    """Return the token ids of a row's conversations by the name of their reward, or why there are none."""
    from selfsteer.reward.scoring import conversation_ids

    if problem := _unwritable(cells):
        return problem
    try:
        found = {
            name: [conversation_ids(scorer.template, one, scorer.where) for one in many]
            for name, many in _conversations(Cells(cells)).items()
        }
    except Unusable as unusable:
        return str(unusable)
    except PromptRefused as error:
        return error.what
    longest = max(len(ids) for many in found.values() for ids in many)
    if scorer.longest is not None and longest > scorer.longest:
        return f"longer than the model's context of {scorer.longest} tokens"
    return found


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    if is_hub(str(file)):
        raise DataError(
            "no such file or folder", where=str(file), do="give a file: hub data sets have to be downloaded first"
        )
    return ((where, row) for where, row, _ in source_rows(str(file), "train"))


_RESPONSES = ("response", "completion", "output")
"""Columns that may hold the single response to a prompt."""


def _conversations(cells: Cells) -> dict[str, list[list[Message]]]:
    if is_pair(cells):
        pair = pair_of(dict(cells.cells), "", "")
        conversations = [[*pair.prompt, {"role": "assistant", "content": text}] for text in (pair.first, pair.second)]
        if pair.label not in (1, -1):
            return {"rewards": conversations}
        better_and_worse(pair)  # raises where a response is empty
        chosen, rejected = conversations[:: pair.label]
        return {"reward_chosen": [chosen], "reward_rejected": [rejected]}
    name = cells.first(COLUMNS)
    if name is None:
        raise Unusable(f"a row has the keys {cells.names}, which is not a known form of a conversation or a pair")
    conversation = read_messages(cells.conversation(name), name)
    response = cells.first(_RESPONSES)
    if response is not None:
        return {"reward": [_answered(conversation, cells, response)]}
    if "responses" in cells.cells:
        texts = cells.cells["responses"]
        if not isinstance(texts, list) or is_missing(texts):
            raise Unusable("'responses' is not a list of texts")
        each = [Cells({"responses": text}) for text in texts]
        return {"rewards": [_answered(conversation, one, "responses") for one in each]}
    return {"reward": [_finished(conversation, name)]}


def _answered(prompt: list[Message], cells: Cells, name: str) -> list[Message]:
    """Return a conversation with the response of a column: text, or messages that may repeat the prompt."""
    value = cells.value(name)
    if isinstance(value, str):
        return [*prompt, {"role": "assistant", "content": cells.text(name)}]
    messages = read_messages(value, name)
    return _finished(messages if messages[: len(prompt)] == prompt else [*prompt, *messages], name)


def _finished(messages: list[Message], name: str) -> list[Message]:
    if not messages or messages[-1]["role"] != "assistant":
        raise Unusable(f"{name!r} is not a conversation that ends with the assistant's message")
    return messages
