"""Uploads a data set folder to the Hugging Face Hub, with the token of the Hub's own tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfsteer.errors import ConfigError, InputError, WorkFailed

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN; the token needs write access"


def check_repository(name: str) -> None:
    """Raise :class:`ConfigError` for an invalid name of a data set on the Hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(str(error).partition("\n")[0], where="--push-to-hub", do="give ORG/NAME") from error
    if "/" not in name:
        what = f"{name!r} has no owner"
        raise ConfigError(what, where="--push-to-hub", do=f"give ORG/{name}, with your user name or organisation")


def push(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload an exported folder as the data set ORG/NAME, created if it does not exist, and return its address.

    Data files of an earlier upload are removed.

    Raises:
        InputError: It exists with the other visibility.
        WorkFailed: The Hub refused, or can't be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(folder, name):
        address = str(api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True))
        private = bool(api.repo_info(name, repo_type="dataset").private)  # create_repo keeps an existing visibility
    if private == public:  # an upload must not publish by accident
        now, wanted = ("private", "leave --public out") if private else ("public", "add --public")
        raise InputError(
            f"the data set {name} already exists and is {now}: nothing was uploaded. The export is in {folder}",
            where=f"--push-to-hub {name}",
            do=f"{wanted}, name another one, or change it on the Hub",
        )
    with _hub_errors(folder, name):
        api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Data set written by selfsteer export",
            delete_patterns=["data/*"],  # an earlier upload may have had more shards
        )
    return address


@contextmanager
def _hub_errors(folder: Path, name: str) -> Iterator[None]:
    """Turn an error of the Hub's client into one message, which names the folder of the export."""
    # HTTPError is that of the HTTP library which this release of the client uses: no connection, time-outs.
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).partition("\n")[0]
        reason = re.sub(r"https?://\S+", "[address]", first_line).rstrip(". ")
        what = f"the upload to the Hub failed: {reason}. The export is kept in {folder}"
        raise WorkFailed(what, where=f"--push-to-hub {name}", do=_advice(error, name, folder)) from error


def _advice(error: Exception, name: str, folder: Path) -> str:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    again = f"then upload it with `hf upload {name} {folder} --repo-type dataset`, or run the same command again"
    if isinstance(error, OfflineModeIsEnabled):
        return f"unset HF_HUB_OFFLINE, {again}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403, 404):
        return f"{_LOGIN}; {again}"
    return f"check the network, {again}"
