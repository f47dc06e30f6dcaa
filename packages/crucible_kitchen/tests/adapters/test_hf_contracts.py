"""The Hugging Face adapters keep the contracts of their ports: real clients, a hub on this machine."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import crucible_ir
from crucible_ir import DatasetRef, DatasetSnapshot, Drop
from crucible_testing.contracts.dataset_store import DatasetStoreContract, PlaceRows
from crucible_testing.contracts.hub_client import HUB_FILES, HUB_REPO, HubClientContract
from crucible_testing.hub import LocalHub
from crucible_testing.hub_fixtures import parquet_bytes
from crucible_testing.hub_process import HubFailure, HubProcess

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add(HUB_REPO, HUB_FILES, repo_type="model")
        hub.add(HUB_REPO, HUB_FILES, repo_type="dataset")
        yield hub


@pytest.fixture(scope="module")
def process(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(endpoint=hub.url, home=tmp_path_factory.mktemp("hub") / "home") as process:
        yield process


def raised(failure: HubFailure) -> Exception:
    """The error that was raised in the process, as an object of its own class."""
    kind: Any = getattr(crucible_ir, failure.kind)
    error: Exception = kind(what=failure.text)
    return error


class StoreThere:
    """HuggingFaceDatasetStore in the client's process."""

    def __init__(self, process: HubProcess) -> None:
        self.process = process

    def load(self, ref: DatasetRef) -> DatasetSnapshot:
        try:
            found = self.process.call("load", ref=ref.model_dump(mode="json"))
        except HubFailure as failure:
            raise raised(failure) from failure
        drops = tuple(
            Drop(reason=reason, count=count, first=first) for reason, count, first in found["drops"]
        )
        assert found["at_random"] == [found["rows"][0], found["rows"][-1]]
        return DatasetSnapshot(ref=DatasetRef.model_validate(found["ref"]), rows=found["rows"], drops=drops)

    def check(self, ref: DatasetRef) -> None:
        try:
            self.process.call("check", ref=ref.model_dump(mode="json"))
        except HubFailure as failure:
            raise raised(failure) from failure


class ClientThere:
    """HuggingFaceHub in the client's process."""

    def __init__(self, process: HubProcess) -> None:
        self.process = process

    def _call(self, what: str, **arguments: Any) -> Any:
        try:
            return self.process.call(what, **arguments)
        except HubFailure as failure:
            raise raised(failure) from failure

    def download(self, repo_id: str, filename: str, **options: Any) -> Path:
        return Path(self._call("download", repo_id=repo_id, filename=filename, **options))

    def snapshot(self, repo_id: str, **options: Any) -> Path:
        return Path(self._call("snapshot", repo_id=repo_id, **options))

    def list_files(self, repo_id: str, **options: Any) -> Sequence[str]:
        found: list[str] = self._call("list_files", repo_id=repo_id, **options)
        return found


class TestHubDatasets(DatasetStoreContract):
    @pytest.fixture
    def store(self, process: HubProcess) -> StoreThere:
        return StoreThere(process)

    @pytest.fixture
    def place(self, hub: LocalHub) -> PlaceRows:
        def publish(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            name = f"crucible/rows{next(NUMBERS)}"
            hub.add(name, {"data/train-00000-of-00001.parquet": parquet_bytes(list(rows))})
            return DatasetRef(id=name)

        return publish

    @pytest.fixture
    def missing(self) -> DatasetRef:
        return DatasetRef(id="crucible/nowhere")


class TestLocalParquet(TestHubDatasets):
    @pytest.fixture
    def place(self, tmp_path: Path) -> PlaceRows:
        def write(rows: Sequence[dict[str, Any]]) -> DatasetRef:
            path = tmp_path / f"rows{next(NUMBERS)}.parquet"
            path.write_bytes(parquet_bytes(list(rows)))
            return DatasetRef(id=str(path))

        return write

    @pytest.fixture
    def missing(self, tmp_path: Path) -> DatasetRef:
        return DatasetRef(id=str(tmp_path / "nowhere.parquet"))


class TestHub(HubClientContract):
    @pytest.fixture
    def client(self, process: HubProcess) -> ClientThere:
        return ClientThere(process)
