"""From a model's name in a recipe to what can be loaded: a folder, a GGUF file or a hub name."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from selfsteer.errors import ModelError, did_you_mean
from selfsteer.files import home_expanded, parse_json
from selfsteer.models.catalogue import CATALOGUE
from selfsteer.models.download import Progress, fetch

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

ADAPTER_CONFIG = "adapter_config.json"

_SMALL = frozenset(
    """adapter_config.json added_tokens.json chat_template.jinja chat_template.json config.json generation_config.json
    preprocessor_config.json processor_config.json special_tokens_map.json tokenizer_config.json""".split()
)
"""Files that are small in every published model; tables of tokens and of shards may be large."""
_LARGEST = 10_000_000


def resolve(name: str, *, progress: Progress | None = None) -> str:
    """Return the folder, file or hub name to load for ``name``.

    A catalogue name comes first (it is fetched if needed), then an existing folder or GGUF file (absolute path), then a
    hub name "org/name" (as it is; the hub is not contacted yet).

    Raises:
        ModelError: It is none of these.
        FetchError, StorageError: A catalogue model could not be fetched.
    """
    if name in CATALOGUE:
        return str(fetch(name, progress=progress))
    path = home_expanded(name)
    if name and (path.is_dir() or (path.is_file() and path.suffix == ".gguf")):
        if path.is_dir():
            _check_files(path)
        return str(path.resolve())
    if _HUB_NAME.fullmatch(name) and not name.startswith(("./", "../")) and not path.exists():
        return name
    what = f"no model {name!r} in the catalogue, and no such folder"
    do = did_you_mean(name, CATALOGUE) + "; or a local folder, or a hub name (org/name)"
    if path.is_file():
        what, do = f"{name} is a file", "give the folder it is in, or a .gguf file"
    elif "/" in name or "\\" in name or name.startswith(("~", ".")):
        what = f"no such folder: {path.absolute()}"
        do = "check the path; a hub name has the form org/name. " + did_you_mean(name, CATALOGUE)
    raise ModelError(what, where=f"model {name!r}", do=do)


def _check_files(folder: Path) -> None:
    """Raise :class:`ModelError` for what no loader may open: a pipe or a device, or a huge configuration."""
    for path in folder.iterdir():
        try:
            state = path.stat()
        except OSError:  # a link to nothing counts as missing
            continue
        what = ""
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
            what = "is not a regular file"
        elif path.name in _SMALL and state.st_size > _LARGEST:
            what = f"has {state.st_size / 1e6:,.0f} MB; up to {_LARGEST / 1e6:.0f} MB are read"
        if what:
            raise ModelError(f"{path.name} of the model {what}", where=str(path), do="copy the model again")


def gguf_file(source: str) -> Path | None:
    """Return the GGUF file that ``source`` is, or holds with no safetensors beside it; ModelError for several."""
    path = Path(source)
    if path.suffix == ".gguf" and path.is_file():
        return path
    found = sorted(path.glob("*.gguf")) if path.is_dir() and not any(path.glob("*.safetensors")) else []
    if len(found) > 1:
        do = f"give one of them: {', '.join(item.name for item in found)}"
        raise ModelError(f"{source} holds {len(found)} GGUF files", where=source, do=do)
    return found[0] if found else None


def is_adapter(source: str) -> bool:
    """Return whether ``source`` is a folder with a PEFT adapter."""
    return (Path(source) / ADAPTER_CONFIG).is_file()


def base_of(source: str, revision: str | None) -> tuple[str, str | None]:
    """Return the model under an adapter with its revision, ``revision`` where the adapter names none; else the source.

    Raises as :func:`adapter_base`.
    """
    if not is_adapter(source):
        return source, revision
    base, own_revision = adapter_base(source)
    return base, own_revision or revision


def recorded_base(source: str) -> str | None:
    """Return the model that a model was trained from: ``base_model`` of its card, else an adapter's base.

    Of a run's policy that is the model which the run began from, whatever the round. None where neither says it.
    Raises as :func:`adapter_base`.
    """
    import yaml
    from huggingface_hub import metadata_load

    card = Path(source) / "README.md"
    try:
        base = (metadata_load(card) or {}).get("base_model") if card.is_file() else None
    except (ValueError, OSError, yaml.YAMLError):  # front matter that is no YAML
        base = None
    if isinstance(base, list) and len(base) == 1:  # cards of merged models name several
        base = base[0]
    if isinstance(base, str) and base:
        return base
    return adapter_base(source)[0] if is_adapter(source) else None


def adapter_base(folder: str) -> tuple[str, str | None]:
    """Return the model under the adapter in ``folder``, and its revision; ModelError where it names none that exists.

    A relative path counts from the working directory, as for peft, else from the adapter's folder.
    """
    where = f"{Path(folder) / ADAPTER_CONFIG}: base_model_name_or_path"
    try:
        settings = parse_json((Path(folder) / ADAPTER_CONFIG).read_bytes())
        name, revision = settings["base_model_name_or_path"], settings.get("revision")
        beside = Path(folder) / name
        source = str(beside.resolve()) if beside.is_dir() and not Path(name).is_dir() else resolve(name)
    except (ValueError, KeyError, TypeError) as error:
        do = "add the name or the folder of it"
        raise ModelError("the adapter names no base model", where=where, do=do) from error
    except ModelError as error:
        raise ModelError(f"the adapter's base model is missing: {error.what}", where=where, do=error.do) from error
    if is_adapter(source):
        do = "merge the first one into its base (merge_and_unload) and name the merged folder"
        raise ModelError("the adapter's base is an adapter itself", where=where, do=do)
    return source, revision
