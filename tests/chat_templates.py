"""Small tokenizers with the chat templates that model families are known by."""

from __future__ import annotations

from typing import Any

DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM."

TEMPLATES = {
    # SmolLM2, Qwen2: a default system message is put in where none is given
    "chatml": (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # Gemma 1 and 2: no system role, turns must alternate
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' "
        "+ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Gemma 3: the template itself folds the system message into the first user turn
    "gemma3": (
        "{{ bos_token }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
        "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
        "{% for message in messages %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{{ (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # some Mistrals: a system message is dropped without a word
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    # Llama 3: BOS stands in the template, and the tokenizer adds one of its own to plain text
    "llama3": (
        "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] "
        "+ '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    # Llama 3.1: a system message with a date is always there, contents are trimmed
    "llama3.1": (
        "{{ bos_token }}{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
        "{% set system = '' %}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% endif %}{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' "
        "+ date_string + '\n\n' + system + '<|eot_id|>' }}{% for message in messages %}{{ '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    # Llama 2: marks that are plain text, a blank before the end token, a BOS in every turn
    "llama2": (
        "{% set system = '' %}{% if messages[0]['role'] == 'system' %}"
        "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + "
        "message['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    # Qwen 2.5: ChatML with a default system message of its own
    "qwen2.5": (
        "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>system\nYou are Qwen. You are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        "{% for message in messages %}{% if message.role == 'user' or message.role == 'assistant' or "
        "(message.role == 'system' and not loop.first) %}"
        "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # SmolLM3: a header says whether it thinks; where it does not, every answer stands behind an empty thought
    "smollm3": (
        "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
        "{% set mode = '/think' if enable_thinking else '/no_think' %}{% set system = 'You are a helpful assistant.' %}"
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}"
        "{% endif %}{{ '<|im_start|>system\nReasoning Mode: ' + mode + '\n\n' + system + '\n<|im_end|>\n' }}"
        "{% set empty = '<think>\n\n</think>\n' if mode == '/no_think' else '' %}{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\n' + (empty if message.role == 'assistant' else '') "
        "+ message.content.lstrip('\n') + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + empty }}{% endif %}"
    ),
    # Phi 3: its tokens swallow the white space that follows, and the document ends behind the last turn's end
    "phi3": (
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # Qwen3: the model writes its thoughts' tags itself; those of earlier turns are stripped; a user message may be what
    # a tool answered
    "qwen3": (
        "{% set ns = namespace(last=0) %}{% for message in messages %}{% if message.role == 'user' and not "
        "(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for message in messages %}{% set content = message.content %}{% if message.role == 'assistant' %}"
        "{% set thought = '' %}{% if '</think>' in content %}"
        "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.index0 > ns.last %}{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}"
        "{% endif %}"
        "{% endif %}{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}"
    ),
    # DeepSeek R1: the cue opens the thought, and the system message stands bare after BOS
    "deepseek-r1": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
        "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% else %}"
        "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
    ),
    # Nemotron Nano: a word in a message turns the thoughts off, and is cut out of it
    "nemotron": (
        "{% set ns = namespace(thinks=true) %}{% for message in messages %}{% if '/no_think' in message['content'] %}"
        "{% set ns.thinks = false %}{% endif %}{{ '<SPECIAL_10>' + message['role'] + '\n' "
        "+ message['content'].replace('/no_think', '') + '\n<SPECIAL_12>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<SPECIAL_11>assistant\n' "
        "+ ('<think>\n' if ns.thinks else '<think></think>') }}{% endif %}"
    ),
    # Magistral: the tags are special tokens, which decoding skips
    "magistral": (
        "{{ bos_token }}{{ '[SYSTEM_PROMPT]First draft your thinking: [THINK]thoughts[/THINK]answer[/SYSTEM_PROMPT]' }}"
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
        "{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    # Gemma 4: the opening tag is a token and a word
    "gemma4": (
        "{{ bos_token }}{% for message in messages %}{% set content = message['content'] %}"
        "{% if message['role'] == 'assistant' %}{% set content = content.split('<channel|>')[-1] %}{% endif %}"
        "{{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' + content | trim "
        "+ '<turn|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|turn>model\n' }}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}"
        "{% endif %}"
    ),
}

_SPECIAL = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "gemma3": ["<start_of_turn>", "<end_of_turn>"],
    "mistral": ["[INST]", "[/INST]"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "llama3.1": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "llama2": [],
    "qwen2.5": ["<|im_start|>", "<|im_end|>"],
    "smollm3": ["<|im_start|>", "<|im_end|>"],
    "phi3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>"],
    "deepseek-r1": ["<｜User｜>", "<｜Assistant｜>"],
    "nemotron": ["<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"],
    "magistral": ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"],
    "gemma4": ["<|turn>", "<turn|>", "<|channel>", "<channel|>"],
}
_THINK = ("<think>", "</think>")
_PLAIN = {
    "qwen3": (*_THINK, "<tool_response>", "</tool_response>", "<unnamed>"),
    "deepseek-r1": _THINK,
    "smollm3": _THINK,
    "nemotron": _THINK,
    "gemma3": ("\n", "\n\n", "user"),
}


def tokenizer_of(
    family: str, *, extra: tuple[str, ...] = (), plain: tuple[str, ...] | None = None, **changes: Any
) -> Any:
    """Return a tokenizer whose tokens are single bytes, with a family's special tokens and template.

    ``extra`` are more special tokens, ``plain`` other added tokens in place of the family's own; ``changes`` go to the
    tokenizer (eos_token=None, ...).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<pad>", "<bos>", "<eos>", *_SPECIAL[family], *extra]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return _with_template(tokenizer, family, extra, _PLAIN.get(family, ()) if plain is None else plain, changes)


def sentencepiece_of(family: str, **changes: Any) -> Any:
    """Return a tokenizer that puts a blank before a text and marks blanks; its tokens are ASCII letters and bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<bos>", "<eos>", "<unk>", *_SPECIAL[family]]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    space = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _with_template(tokenizer, family, (), _PLAIN.get(family, ()), {"unk_token": "<unk>"} | changes)


def _with_template(
    tokenizer: Any, family: str, extra: tuple[str, ...], plain: tuple[str, ...], changes: dict[str, Any]
) -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    swallows = family == "phi3"
    marks = [AddedToken(text, rstrip=swallows, normalized=False, special=True) for text in _SPECIAL[family]]
    settings = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"} | changes
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=[*marks, *extra], **settings)
    fast.add_tokens([AddedToken(text, normalized=False, special=False) for text in plain])
    fast.chat_template = TEMPLATES[family]
    return fast


def user(text: str, system: str | None = None) -> list[dict[str, str]]:
    """Return a prompt of one user turn, after a system message if one is given."""
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": text}]
