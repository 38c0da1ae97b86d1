"""Uploads, with a client that writes to a folder in place of the Hub's."""

from __future__ import annotations

import shutil
from importlib import import_module
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from selfsteer.errors import ConfigError, InputError, WorkFailed
from selfsteer.export import check_repository, push
from tests.example_rows import contrast
from tests.export.helpers import loaded, refused, to_folder

http = import_module(HTTPError.__module__.partition(".")[0])  # the HTTP library of this release of the client


class FakeHub:
    """The part of HfApi that is used, over a folder; ``fails`` is raised by the call of that name."""

    def __init__(self, folder):
        self.folder, self.private, self.fails = folder, {}, {}

    def _maybe_fail(self, call):
        if call in self.fails:
            raise self.fails[call]

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self._maybe_fail("create_repo")
        assert repo_type == "dataset" and exist_ok
        self.private.setdefault(repo_id, private)
        return f"https://hub.example/datasets/{repo_id}"

    def repo_info(self, repo_id, *, repo_type):
        assert repo_type == "dataset"
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message, delete_patterns):
        self._maybe_fail("upload_folder")
        assert repo_type == "dataset" and commit_message
        target = self.folder / repo_id
        for pattern in delete_patterns:
            for path in target.glob(pattern):
                path.unlink()
        shutil.copytree(folder_path, target, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


@pytest.fixture
def folder(tmp_path):
    return to_folder([contrast()], tmp_path / "pairs", format="trl")


def answer(status, text="no"):
    request = http.Request("POST", "https://hub.example/api/repos/create")
    return HfHubHTTPError(
        f"{status} Client Error for url: https://hub.example/api. {text}",
        response=http.Response(status, request=request),
    )


def test_a_folder_becomes_a_private_data_set_that_can_be_loaded(hub, folder, tmp_path):
    assert push(folder, "org/pairs") == "https://hub.example/datasets/org/pairs"
    assert hub.private == {"org/pairs": True}
    assert [row["id"] for row in loaded(tmp_path / "hub/org/pairs", tmp_path / "cache")] == ["q1"]


def test_it_is_public_on_request_only(hub, folder):
    push(folder, "org/pairs", public=True)
    assert hub.private == {"org/pairs": False}


def test_shards_of_an_earlier_upload_do_not_stay(hub, folder, tmp_path):
    old = tmp_path / "hub/org/pairs/data"
    old.mkdir(parents=True)
    (old / "train-00007.parquet").write_bytes(b"old")
    push(folder, "org/pairs")
    assert [path.name for path in old.iterdir()] == ["train-00000.parquet"]


@pytest.mark.parametrize(("private", "advice"), [(False, "add --public"), (True, "leave --public out")])
def test_nothing_is_uploaded_to_a_data_set_of_another_visibility(hub, folder, tmp_path, private, advice):
    hub.private["org/pairs"] = private
    message = refused(InputError, lambda: push(folder, "org/pairs", public=private))
    assert advice in message and str(folder) in message
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (answer(401), "HF_TOKEN"),
        (answer(403, "You don't have the rights"), "hf auth login"),
        (answer(500), "check the network"),
        (LocalTokenNotFoundError("Token is required, but no token found."), "HF_TOKEN"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (http.ConnectError("[Errno -2] Name or service not known"), "check the network"),
        (OSError("broken pipe"), "check the network"),
    ],
    ids=str,
)
def test_what_the_hub_refuses_is_one_message_that_names_the_folder(hub, folder, call, error, advice):
    hub.fails[call] = error
    message = refused(WorkFailed, lambda: push(folder, "org/pairs"))
    assert advice in message and str(folder) in message and "org/pairs" in message
    assert "https://" not in message and len(message.splitlines()) == 3
    assert (folder / "README.md").is_file()


@pytest.mark.parametrize("name", ["pairs", "a/b/c", "org/with space", "org/..", ""])
def test_a_name_that_can_not_be_one_is_refused(name):
    assert "ORG/" in refused(ConfigError, lambda: check_repository(name)) or name == ""
    check_repository("org/pairs-v1.0")
