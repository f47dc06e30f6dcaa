"""How single errors of the clients are told: those that no hub on this machine can be made to raise."""

import errno

import pytest

from crucible_ir import ConfigError, CrucibleError, DataError, NotFoundError, ServiceError, StorageError
from crucible_kitchen.adapters.hf_client import HubErrors, hub_token

PAGE = "http://hub/datasets/a/b"


def told(error: Exception) -> CrucibleError:
    with pytest.raises(CrucibleError) as caught, HubErrors("a/b", page=PAGE):
        raise error
    assert caught.value.__suppress_context__
    return caught.value


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_a_full_disk_is_a_storage_error() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(told(full), StorageError)
    assert isinstance(told(caused(RuntimeError("could not write"), full)), StorageError)


def test_a_file_of_the_wrong_size_may_be_fetched_again() -> None:
    error = told(OSError("Consistency check failed: file should be of size 3 but has size 2"))
    assert isinstance(error, ServiceError)
    assert error.retryable


def test_a_switched_off_hub_is_told_from_one_that_is_not_there() -> None:
    off = told(ConnectionError("Couldn't reach 'a/b' on the Hub (offline mode)"))
    away = told(TimeoutError("timed out"))
    assert isinstance(off, ServiceError)
    assert isinstance(away, ServiceError)
    assert (off.retryable, away.retryable) == (False, True)


def test_what_datasets_says_of_missing_and_gated_datasets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("DatasetNotFoundError", (FileNotFoundError,), {"__module__": "datasets.exceptions"})
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert isinstance(
        told(kind("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.")), NotFoundError
    )
    gated = told(kind("Dataset 'a/b' is a gated dataset on the Hub."))
    assert isinstance(gated, ConfigError)
    assert PAGE in str(gated)
    generation = type("DatasetGenerationError", (Exception,), {"__module__": "datasets.exceptions"})
    broken = told(caused(generation("An error occurred"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")))
    assert isinstance(broken, DataError)


def test_the_token_is_cut_out_of_what_a_client_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " hf_planted ")
    assert hub_token() == "hf_planted"
    error = told(ConnectionError("GET http://hub/?token=hf_planted failed\nsecond line"))
    assert "hf_planted" not in str(error)
    assert "***" in str(error)
    assert "second line" not in str(error)
    monkeypatch.setenv("HF_TOKEN", "  ")
    assert hub_token() is False


def test_errors_of_ours_and_unknown_ones_pass_unchanged() -> None:
    ours = DataError(what="x")
    with pytest.raises(DataError) as caught, HubErrors("a/b", page=PAGE):
        raise ours
    assert caught.value is ours
    with pytest.raises(ZeroDivisionError), HubErrors("a/b", page=PAGE):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), HubErrors("a/b", page=PAGE):
        raise KeyboardInterrupt
