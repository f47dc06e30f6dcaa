"""What every HubClient promises."""

from __future__ import annotations

import pytest

from crucible_ir import NotFoundError
from crucible_train.ports import HubClient

__all__ = ["HUB_FILES", "HUB_REPO", "HubClientContract"]

HUB_REPO = "crucible/contract"
"""The repository, of both types, that the hub under test holds."""

HUB_FILES = {
    "README.md": b"# contract\n",
    "config.json": b'{"a": 1}\n',
    "weights/part-1.bin": bytes(range(256)) * 300,
    "weights/part-2.bin": b"\x00" * 1000,
}
"""The files of that repository."""


class HubClientContract:
    """Inherit it and give ``client``, whose hub holds ``HUB_REPO`` with ``HUB_FILES``."""

    @pytest.fixture
    def client(self) -> HubClient:
        """The client under test."""
        raise NotImplementedError

    def test_it_fits_the_port(self, client: HubClient) -> None:
        assert isinstance(client, HubClient)

    @pytest.mark.parametrize("repo_type", ["model", "dataset"])
    def test_a_file_arrives_whole(self, client: HubClient, repo_type: str) -> None:
        for name in ("config.json", "weights/part-1.bin"):
            path = client.download(HUB_REPO, name, repo_type=repo_type)  # type: ignore[arg-type]
            assert path.read_bytes() == HUB_FILES[name]

    def test_a_second_download_is_the_same_file(self, client: HubClient) -> None:
        assert client.download(HUB_REPO, "config.json") == client.download(HUB_REPO, "config.json")

    def test_files_are_listed_sorted(self, client: HubClient) -> None:
        assert list(client.list_files(HUB_REPO)) == sorted(HUB_FILES)

    def test_a_snapshot_holds_every_file(self, client: HubClient) -> None:
        folder = client.snapshot(HUB_REPO)
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        assert found == HUB_FILES

    def test_a_snapshot_may_take_some_files_alone(self, client: HubClient) -> None:
        folder = client.snapshot(HUB_REPO, patterns=["*.json"], repo_type="dataset")
        names = {path.name for path in folder.rglob("*") if path.is_file()}
        assert "config.json" in names
        assert "README.md" not in names

    def test_what_is_missing_is_not_found(self, client: HubClient) -> None:
        with pytest.raises(NotFoundError, match="no such repository"):
            client.download("crucible/nowhere", "config.json")
        with pytest.raises(NotFoundError, match="no such file"):
            client.download(HUB_REPO, "weights/part-3.bin")
        with pytest.raises(NotFoundError, match="no such revision"):
            client.snapshot(HUB_REPO, revision="nowhere")
        with pytest.raises(NotFoundError, match="no such repository"):
            client.list_files("crucible/nowhere")
