"""Resolving, loading and naming models, on a tiny random Llama."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsteer.chat import Chat
from selfsteer.errors import ConfigError, FetchError, ModelError, SelfsteerError
from selfsteer.models import CATALOGUE, load_model, load_tokenizer, model_fingerprint, pick_device, pick_dtype, resolve
from selfsteer.models import fingerprint as naming
from selfsteer.models import load as loading

TEMPLATE = "{% for message in messages %}<s>{{ message['role'] }} {{ message['content'] }}</s>{% endfor %}"


def save_model(folder: Path, *, seed: int = 0) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, **heads)).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, **settings: Any) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *"user assistant hello world".split()]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE} | settings
    PreTrainedTokenizerFast(tokenizer_object=backend, **settings).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path | str, *, seed: int = 1) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(load_model(str(base)), config)
    adapted.save_pretrained(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 3, 5, 6, 2]])).logits


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hub out of the tests, and the fingerprints of other tests too."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(save_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def test_importing_needs_no_torch() -> None:
    code = "import selfsteer.models, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- resolve


def test_a_folder_resolves_to_its_absolute_path(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve("tiny") == resolve("./tiny") == resolve("~/tiny") == str(tiny)


def test_a_hub_name_resolves_to_itself() -> None:
    assert resolve("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_an_unknown_name_gets_a_guess() -> None:
    with pytest.raises(ModelError, match="no model 'smolm2-135m'") as caught:
        resolve("smolm2-135m")
    available = "qwen2.5-coder-0.5b, qwen2.5-coder-1.5b, smollm2-135m"
    assert f"Did you mean 'smollm2-135m'? Available: {available}" in caught.value.do


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/no/where", "~/nowhere", "runs/round-01/policy", "a/b/"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["", ".hidden", "a b"])
def test_names_that_are_nothing(name: str) -> None:
    with pytest.raises(ModelError):
        resolve(name)


def test_a_file_that_is_no_model(tiny: Path) -> None:
    with pytest.raises(ModelError, match="is a file"):
        resolve(str(tiny / "config.json"))


# --- load_model


def test_a_folder_loads_in_eval_mode_and_in_the_dtype_asked_for(tiny: Path) -> None:
    model = load_model(str(tiny))
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert load_model(str(tiny), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(str(tiny), attn_implementation="eager").config._attn_implementation == "eager"


def test_an_unknown_attention(tiny: Path) -> None:
    with pytest.raises(ModelError, match="can't load") as caught:
        load_model(str(tiny), attn_implementation="nonsense")
    assert "attn_implementation" in caught.value.do


def test_an_unknown_dtype_or_device(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        load_model(str(tiny), dtype="bfloat61")
    with pytest.raises(ConfigError, match="no such device: 'gpu'"):
        load_model(str(tiny), device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        load_model(str(tiny), device="cuda:0")


def test_a_pickle_is_never_loaded(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    with pytest.raises(ModelError, match="has pickled weights only") as caught:
        load_model(str(tiny))
    assert "save_pretrained" in caught.value.do


def change_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"), "can't load"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 4096), "can't load"),
        (lambda folder: os.truncate(folder / "model.safetensors", 3000), "can't load"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json in"),
        (lambda folder: (folder / "config.json").write_text("{"), "can't load"),
        (lambda folder: change_config(folder, model_type="never-heard-of"), "can't load"),
        (lambda folder: change_config(folder, hidden_size="eight"), "can't load .*hidden_size.*int"),
        (
            lambda folder: change_config(folder, vocab_size=40),
            "another shape than config.json says: lm_head.weight, model.embed_tokens",
        ),
        (drop_a_weight, "1 weights are missing from .*up_proj"),
        (lambda folder: change_config(folder, num_hidden_layers=2), "weights are missing from"),
    ],
)
def test_a_folder_that_is_not_whole(tiny: Path, spoil: Callable[[Path], object], what: str) -> None:
    spoil(tiny)
    with pytest.raises(ModelError, match=what) as caught:
        load_model(str(tiny))
    assert caught.value.where
    assert caught.value.do
    assert len(caught.value.what.splitlines()) == 1


def test_code_of_a_model_is_not_run_unasked(tiny: Path) -> None:
    (tiny / "modeling_own.py").write_text("raise SystemExit('the code was run')")
    change_config(tiny, model_type="own", auto_map={"AutoConfig": "modeling_own.OwnConfig"})
    with pytest.raises(ModelError, match="needs Python code of its own") as caught:
        load_model(str(tiny))
    assert "model.trust_remote_code=true" in caught.value.do


# --- the hub


def raise_as_transformers(cause: BaseException) -> Callable[..., Any]:
    def from_pretrained(*_: object, **__: object) -> None:
        raise OSError("We failed, see https://hub.example.org/docs") from cause

    return from_pretrained


def hub_error(kind: str) -> BaseException:
    import httpx2 as httpx
    from huggingface_hub import errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://hub.example.org"))
    return getattr(errors, kind)("hub", response=response)


@pytest.mark.parametrize(
    ("kind", "expected", "what", "do"),
    [
        ("GatedRepoError", ModelError, "is gated on the hub", "hf auth login"),
        ("RepositoryNotFoundError", ModelError, "no model 'org/name' on the hub", "Available:"),
        ("RevisionNotFoundError", ModelError, "no such revision", "model.revision"),
        ("HfHubHTTPError", FetchError, "can't reach the hub", "smollm2-135m"),
    ],
)
def test_what_the_hub_says(
    monkeypatch: pytest.MonkeyPatch, kind: str, expected: type[SelfsteerError], what: str, do: str
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    for auto, load in ((AutoConfig, load_model), (AutoTokenizer, load_tokenizer)):
        monkeypatch.setattr(auto, "from_pretrained", raise_as_transformers(hub_error(kind)))
        with pytest.raises(expected, match=what) as caught:
            load("org/name", revision="v9")
        assert do in caught.value.do
        assert "example.org" not in str(caught.value)


@pytest.mark.parametrize("load", [load_model, load_tokenizer, model_fingerprint])
def test_a_hub_that_is_out_of_reach(load: Callable[[str], Any]) -> None:
    with pytest.raises(FetchError, match="can't reach the hub, and org/name is not in its local cache"):
        load("org/name")


def test_a_hub_model_of_the_local_cache_loads_and_is_named_by_its_commit(tiny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    for branch, commit in (("main", "a" * 40), ("next", "b" * 40)):
        (repository / "refs" / branch).write_text(commit)
        shutil.copytree(tiny, repository / "snapshots" / commit)
    save_model(repository / "snapshots" / ("b" * 40), seed=3)
    assert torch.equal(logits(load_model("org/name")), logits(load_model(str(tiny))))
    assert not torch.equal(logits(load_model("org/name", revision="next")), logits(load_model(str(tiny))))
    assert load_tokenizer("org/name").eos_token == "</s>"
    assert len({model_fingerprint("org/name"), model_fingerprint("org/name", "main")}) == 1
    assert model_fingerprint("org/name", "next") != model_fingerprint("org/name")


def test_a_pickle_of_the_hub_is_not_loaded_either(tiny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = Path(shutil.copytree(tiny, repository / "snapshots" / ("a" * 40)))
    torch.save(load_model(str(tiny)).state_dict(), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(SelfsteerError):
        load_model("org/name")


def test_a_repository_of_pickles_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def from_pretrained(*_: object, **__: object) -> None:
        raise OSError("org/name does not appear to have ... and thus cannot be loaded with `safetensors`. Please ...")

    monkeypatch.setattr(loading, "model_config", lambda *_, **__: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(ModelError, match="org/name has pickled weights only"):
        load_model("org/name")


# --- load_tokenizer


def test_a_missing_pad_token_is_the_end_token(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("</s>", 2)
    assert len(tokenizer) == 7


def test_a_pad_token_of_its_own_is_kept(tmp_path: Path) -> None:
    assert load_tokenizer(str(save_tokenizer(tmp_path / "t", pad_token="<unk>"))).pad_token_id == 0


def test_the_unknown_token_pads_where_nothing_ends(tmp_path: Path) -> None:
    assert load_tokenizer(str(save_tokenizer(tmp_path / "t", eos_token=None))).pad_token == "<unk>"
    with pytest.raises(ModelError, match="no end token and no pad token"):
        load_tokenizer(str(save_tokenizer(tmp_path / "u", eos_token=None, unk_token=None)))


def test_a_tokenizer_without_chat_template(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no chat template") as caught:
        Chat.load(str(save_tokenizer(tmp_path / "t", chat_template=None)))
    assert "chat_template" in caught.value.do


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer in"):
        load_tokenizer(str(save_model(tmp_path / "m")))


def test_a_damaged_tokenizer(tiny: Path) -> None:
    (tiny / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="can't load"):
        load_tokenizer(str(tiny))


# --- adapters


def test_an_adapter_folder_loads_with_its_base(tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny)
    model = load_model(str(adapter))
    assert not model.training
    assert not any(weight.requires_grad for name, weight in model.named_parameters() if "lora" in name)
    assert not torch.equal(logits(model), logits(load_model(str(tiny))))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(load_model(str(tiny))))
    assert load_tokenizer(str(adapter)).eos_token == "</s>"


def test_an_adapter_may_name_its_base_beside_itself(tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../tiny"}))
    assert logits(load_model(str(adapter))).shape == (1, 5, 32)


def spoil_adapter(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[:1]), folder / "adapter_model.safetensors")


def set_base(folder: Path, base: object) -> None:
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folder: set_base(folder, "/no/where"), "base model is missing: no such folder"),
        (lambda folder: set_base(folder, None), "names no base model"),
        (lambda folder: set_base(folder, str(folder)), "base is an adapter itself"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "names no base model"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter weights"),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "has pickled weights only",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99), "can't load"),
        (spoil_adapter, "weights are missing from the adapter"),
    ],
)
def test_an_adapter_that_is_not_whole(tiny: Path, tmp_path: Path, spoil: Callable[[Path], object], what: str) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny)
    spoil(adapter)
    with pytest.raises(ModelError, match=what):
        load_model(str(adapter))


# --- model_fingerprint


def age(folder: Path) -> None:
    """Make the files old enough for their hashes to be kept."""
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_fingerprint_names_the_content(tiny: Path, tmp_path: Path) -> None:
    name = model_fingerprint(str(tiny))
    assert len(name) == 16
    assert int(name, 16) >= 0
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    assert model_fingerprint(str(copy)) == name
    (copy / "README.md").write_text("not the model")
    assert model_fingerprint(str(copy)) == name


@pytest.mark.parametrize("settled", [True, False])
def test_one_changed_weight_changes_the_fingerprint(tiny: Path, settled: bool) -> None:
    if settled:
        age(tiny)
    name = model_fingerprint(str(tiny))
    flip_a_bit(tiny / "model.safetensors")
    if settled:
        age(tiny)  # same size, same modification time
    assert model_fingerprint(str(tiny)) != name


def test_the_config_is_part_of_the_fingerprint(tiny: Path) -> None:
    name = model_fingerprint(str(tiny))
    change_config(tiny, rope_theta=1.0)
    assert model_fingerprint(str(tiny)) != name


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"])
def test_what_a_model_says_depends_on_its_tokenizer_and_template_too(tiny: Path, file: str) -> None:
    names = [model_fingerprint(str(tiny), chat=chat) for chat in (False, True)]
    with (tiny / file).open("a") as stream:
        stream.write(" ")
    weights, all_of_it = (model_fingerprint(str(tiny), chat=chat) for chat in (False, True))
    assert weights == names[0] and all_of_it not in names


def test_end_tokens_are_part_of_what_a_model_says(tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny)
    names = [model_fingerprint(str(folder), chat=True) for folder in (tiny, adapter)]
    (tiny / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    names += [model_fingerprint(str(folder), chat=True) for folder in (tiny, adapter)]
    (tiny / "README.md").write_text("not the model")
    assert len(set(names)) == 4 and model_fingerprint(str(tiny), chat=True) == names[2]


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_s_own_code_counts_where_it_is_run(tiny: Path, chat: bool) -> None:
    def names() -> list[str]:
        return [model_fingerprint(str(tiny), chat=chat, trust_remote_code=trusted) for trusted in (False, True)]

    (tiny / "modeling_tiny.py").write_text("SCALE = 1\n")
    before = names()
    (tiny / "modeling_tiny.py").write_text("SCALE = 2\n")
    after = names()
    assert before[0] == after[0] and len({*before, *after}) == 3


def test_a_second_fingerprint_reads_no_weights(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(tiny)
    name = model_fingerprint(str(tiny))
    monkeypatch.setattr(naming, "sha256_file", lambda path: pytest.fail(f"{path} was read"))
    assert model_fingerprint(str(tiny)) == name


def test_the_hash_of_a_file_just_written_is_not_kept(tiny: Path, tmp_path: Path) -> None:
    # A second write within the clock's grain would leave size and times as they are.
    os.utime(tiny / "model.safetensors")
    os.utime(tiny / "config.json")
    model_fingerprint(str(tiny))
    assert not list((tmp_path / "cache").glob("fingerprints/*"))


def test_a_cache_that_can_not_be_written_costs_only_time(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(tiny)
    name = model_fingerprint(str(tiny))
    monkeypatch.setenv("SELFSTEER_CACHE", str(tiny / "config.json"))
    assert model_fingerprint(str(tiny)) == name


def test_an_adapter_is_named_with_its_base(tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny)
    names = [model_fingerprint(str(tiny)), model_fingerprint(str(adapter))]
    flip_a_bit(tiny / "model.safetensors")
    names.append(model_fingerprint(str(adapter)))
    flip_a_bit(adapter / "adapter_model.safetensors")
    names.append(model_fingerprint(str(adapter)))
    assert len(set(names)) == 4


def test_a_folder_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights in"):
        model_fingerprint(str(tmp_path))


# --- hardware


def test_the_device_is_there() -> None:
    assert torch.zeros(1, device=pick_device()).device.type == pick_device()


@pytest.mark.parametrize(
    ("helpers", "expected"),
    [
        ({"_is_avx512_bf16_supported": lambda: True}, "bfloat16"),
        ({"_is_avx512_bf16_supported": lambda: False, "_is_amx_tile_supported": lambda: True}, "bfloat16"),
        ({"_is_avx512_bf16_supported": lambda: False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, helpers: dict[str, Callable[[], bool]], expected: str
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    for name, helper in helpers.items():
        monkeypatch.setattr(torch.cpu, name, helper, raising=False)
    assert pick_dtype("auto", "cpu") == expected
    assert pick_dtype("float32", "cpu") == "float32"
    assert pick_dtype("bfloat16", "cpu") == "bfloat16"


def test_auto_on_a_gpu_asks_for_bfloat16_that_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for real in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, real=real: including_emulation or real
        )
        assert pick_dtype("auto", "cuda:1") == ("bfloat16" if real else "float32")


# --- the real weights


@pytest.mark.weights
def test_the_embedded_model_gives_the_golden_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Path(__file__).parents[3] / "shared" / "golden" / "sequences.json"
    if not golden.is_file():
        pytest.skip("../shared/golden/sequences.json is not beside this checkout")
    monkeypatch.delenv("SELFSTEER_CACHE")  # the ordinary cache: fetched once per machine
    model, tokenizer = load_model("smollm2-135m"), load_tokenizer("smollm2-135m")
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert model.generation_config.eos_token_id == 2
    expected = json.loads(golden.read_text())
    check = model.get_input_embeddings().weight[100, :4].tolist()
    assert check == expected["meta"]["check_values"]["embed_tokens[100,:4] base"]
    for example in expected["examples"]:
        rows = example["rows"]
        assert len(rows) == 6
        for row, found in zip(rows, response_logps(model, rows), strict=True):
            assert tokenizer.encode(tokenizer.decode(row["input_ids"]), add_special_tokens=False) == row["input_ids"]
            assert found == pytest.approx(row["logp_base"], abs=1e-3)


def response_logps(model: Any, rows: list[dict[str, Any]]) -> list[float]:
    """Return the summed log-prob of each row's response; the rows are padded on the right, which changes nothing."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])  # (B, T)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    logps = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)  # (B, T - 1)
    return [
        logps[index, row["response_start"] - 1 : len(row["input_ids"]) - 1].sum().item()
        for index, row in enumerate(rows)
    ]


@pytest.mark.weights
def test_the_embedded_template_speaks_chatml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFSTEER_CACHE")
    tokenizer = load_tokenizer("smollm2-135m")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert CATALOGUE["smollm2-135m"].end_tokens == (tokenizer.eos_token,)
    assert loading.DTYPES[0] == "float32"
