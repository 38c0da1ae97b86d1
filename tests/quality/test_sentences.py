"""Where sentences end."""

import pytest

from selfsteer.quality.sentences import last_sentence_end

# | marks the end that must be found
CUTS = [
    "It rains.| And then th",
    "Does it rain?| I th",
    "It rains!!| So w",
    'He said "it rains."| Then he',
    "It rains (a lot.)| The",
    "**It rains.**| The",
    "Well...| The re",
    "今天下雨。|明天会",
    "他说：「下雨。」|然后",
    "هل تمطر؟| ربما في",
    "बारिश हो रही है।| और",
    "All done.|",
    "It opened in 1995.| Then the",
    "So I said it was I.| Then the",
    # a lower-case letter, an abbreviation, an initial, a number: no end there
    "It rains.| It takes approx. five ho",
    "It rains.| Ask Dr. Smi",
    "It rains.| Use a coat, e.g. Barbour or",
    "It rains.| J. R. R. Tolk",
    "It rains.| It fell 3.14 mm on example.com and v1.2 of",
    "It rains.|\n\n1. Coa",
    "It rains.|\n\n**2. Hat",
    '"Why?" she asked.| "Be',
    # list lines
    "Take these:\n- a coat\n- a hat|\n- an umbr",
    "Take these:\n1. a coat\n2. a hat|\n3. an umbr",
    "It rains.|\n- take with you:\n  a co",
    # code
    "Run it.\n```python\nprint('hi.')\n```|\nThis pri",
    "Run it.|\n```python\nprint('hi. there.')\nx = 1.\n",
]


@pytest.mark.parametrize("marked", CUTS)
def test_last_complete_end(marked: str) -> None:
    text = marked.replace("|", "", 1)
    assert last_sentence_end(text) == marked.index("|")


@pytest.mark.parametrize("text", ["", "no end here", "1. ", "Dr. Smith and Mr. Jo", "```\nprint('a.')\n", "- one line"])
def test_no_end(text: str) -> None:
    assert last_sentence_end(text) is None


def test_inline_backticks_are_no_fence() -> None:
    text = "```not a fence```\nIt rains. And"
    assert last_sentence_end(text) == text.index(" And")
