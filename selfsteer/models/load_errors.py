"""Errors of loading a model, each in one clear message."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from selfsteer.errors import FetchError, ModelError, SelfsteerError, did_you_mean
from selfsteer.models.catalogue import CATALOGUE

_CONVERT = (
    "convert it once with transformers (from_pretrained, then save_pretrained), if you trust where it came from: "
    "loading a pickle runs the code inside it"
)

_SAID_IN_WORDS = {"OSError", "ValueError", "ImportError", "RuntimeError", "StrictDataclassError", "SafetensorError"}
"""Errors whose texts say what is wrong (bare Exceptions, of tokenizers, too); the kind of others is in the message."""
_SHOWN = 300  # characters of an error's text

_ADDRESS = re.compile(
    r"""\b[a-z][a-z0-9+.-]{0,20}://[^\s'">)]+   # an address with its scheme
    | (?<=host=')[^']+ | (?<=host=")[^"]+       # urllib3's connection pools
    | \b(?:[a-z0-9_-]{1,63}\.){1,9}
      (?:org|com|net|io|dev|ai|co|eu|cloud|internal|intranet|local|lan|corp|edu|gov)\b(?::\d+)?
    | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b""",
    re.IGNORECASE | re.VERBOSE,
)


def without_addresses(text: str) -> str:
    """Return ``text`` with each URL, host name and IP address replaced by "[address]"."""
    return _ADDRESS.sub("[address]", text)


@contextlib.contextmanager
def loading_errors(source: str, file: str = "") -> Iterator[None]:
    """Turn whatever transformers, peft, tokenizers, safetensors and the hub raise for a wrong model into our errors.

    A damaged folder makes them raise nearly anything (AttributeError, AssertionError, a bare Exception), so no kind is
    let through; only such calls belong inside. ``file`` is what is read of the folder, for the message.

    Raises:
        ModelError: The model can't be used as it is.
        FetchError: The hub can't be reached.
    """
    try:
        yield
    except SelfsteerError:
        raise
    except Exception as error:
        raise _explain(source, file, error) from error


def pickle_only(source: str) -> ModelError:
    """Return the error for weights that exist as pickles alone."""
    return ModelError(f"{source} has pickled weights only; safetensors or GGUF are loaded", where=source, do=_CONVERT)


def _explain(source: str, file: str, error: BaseException) -> SelfsteerError:
    text = str(error)
    if "trust_remote_code" in text:
        what = f"{source} needs Python code of its own, which was not run"
        do = "read that code; if you trust it, set model.trust_remote_code=true: it then runs with your rights, though "
        do += "never for an estimate or a dry run"
        return ModelError(what, where=source, do=do)
    if not Path(source).exists() and (found := _hub_problem(source, error)):
        return found
    if "cannot be loaded with `safetensors`" in text:
        return pickle_only(source)
    where = str(Path(source) / file) if file and Path(source).is_dir() else source
    return ModelError(f"can't load {source}: {_first_line(error)}", where=where, do=_advice(error))


def _hub_problem(source: str, error: BaseException) -> SelfsteerError | None:
    from huggingface_hub import errors as hub

    causes, cause = [error], error.__cause__ or error.__context__
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(hub.GatedRepoError):
        do = "accept its terms on its page, then log in on this machine (hf auth login)"
        return ModelError(f"{source} is gated on the hub", where=source, do=do)
    if has(hub.RevisionNotFoundError):
        do = "give a branch, a tag or a commit of it, or leave model.revision out"
        return ModelError(f"{source} has no such revision on the hub", where="model.revision", do=do)
    if has(hub.RepositoryNotFoundError):
        do = f"check the spelling; a private one needs `hf auth login`. {did_you_mean(source, CATALOGUE)}"
        return ModelError(f"no model {source!r} on the hub, and no such folder here", where=source, do=do)
    if has(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError, ConnectionError, TimeoutError):
        do = f"check the network, give a local folder, or a model of the catalogue: {', '.join(CATALOGUE)}"
        return FetchError(f"can't reach the hub, and {source} is not in its local cache", where=source, do=do)
    return None


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # "Validation error for field 'x':" gives the reason only on the next line.
    reason = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    shown = without_addresses(reason)[:_SHOWN]
    kind = type(error).__name__
    if type(error) is not Exception and _SAID_IN_WORDS.isdisjoint(base.__name__ for base in type(error).__mro__):
        return f"{kind}: {shown}" if shown else kind
    return shown or kind


def _advice(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, ImportError):
        return "install what is named above"
    if "attn_implementation" in text:
        return "leave attn_implementation out, or take one of those named above"
    if "does not recognize this architecture" in text:
        return "install a release of transformers that knows this architecture, or take another model"
    if "out of memory" in text.lower():
        return "take a smaller model, bfloat16 in place of float32, or a device with more memory"
    return "check that the folder is complete and was written by save_pretrained"
