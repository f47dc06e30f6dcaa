"""Checkpoints are complete or absent, verified before use, and continue a run bit for bit."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from crucible_ir import ConfigError, ConflictError, IntegrityError, NotFoundError, StorageError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_torch.checkpoint import list_checkpoints, read_checkpoint
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig

DATA = [make_datum([3, 9, 27, 81, 243, 5, 25]), make_datum([7, 49, 50, 51])]
STEP = AdamParams(learning_rate=5e-3, weight_decay=0.01, grad_clip_norm=5.0)
KINDS = [LoraConfig(rank=4), None]


def make_client(backend: LocalBackend, model: Path, folder: Path, lora: LoraConfig | None = KINDS[0]) -> Any:
    spec = TrainingSpec(base_model=str(model), lora=lora, seed=1, checkpoint_dir=folder)
    return asyncio.run(backend.create_training_client(spec))


def train(client: Any, steps: int) -> None:
    for _ in range(steps):
        client.forward_backward(DATA)
        client.optim_step(STEP).result()


def everything(client: Any) -> dict[str, torch.Tensor]:
    trainer = client._trainer
    both = {**trainer.weights.masters, **trainer.optimizer.state()}
    return {name: tensor.detach().clone() for name, tensor in both.items()}


def identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses every write beyond ``size`` bytes of a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("lora", KINDS, ids=["adapter", "full"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    client = make_client(make_backend(), qwen3, tmp_path, lora)
    train(client, 3)
    ref = client.save_state("three").result()
    train(client, 4)
    other = make_client(make_backend(), qwen3, tmp_path, lora)
    other.load_state(ref).result()
    train(other, 4)
    assert identical(everything(client), everything(other))
    assert other._trainer.optimizer.steps == 7
    assert client.save_state("seven").result() == other.save_state("seven").result()


def test_the_same_run_in_another_process_writes_the_same_bytes(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path / "here")
    train(client, 3)
    here = client.save_state("three").result()
    code = f"""
import asyncio
import gc
from pathlib import Path
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig
backend = LocalBackend(device="cpu", num_threads=1)
spec = TrainingSpec(base_model={str(qwen3)!r}, lora=LoraConfig(rank=4), seed=1,
                    checkpoint_dir=Path({str(tmp_path / "there")!r}))
client = asyncio.run(backend.create_training_client(spec))
for _ in range(3):
    client.forward_backward([make_datum([3, 9, 27, 81, 243, 5, 25]), make_datum([7, 49, 50, 51])])
    client.optim_step(AdamParams(learning_rate=5e-3, weight_decay=0.01, grad_clip_norm=5.0)).result()
print(client.save_state("three").result().digest)
asyncio.run(backend.close())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here.digest


def test_a_checkpoint_holds_no_pickle_and_names_every_file(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    train(client, 2)
    ref = client.save_state("two").result()
    folder = Path(ref.path)
    assert {path.name for path in folder.iterdir()} == {
        "adapter.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }
    state = json.loads((folder / "state.json").read_text())
    assert state["steps"] == 2
    assert state["seed"] == 1
    assert state["base_digest"] == backend.model_digest(str(qwen3))
    assert read_checkpoint(folder).ref == ref
    assert {path.name for path in tmp_path.iterdir()} == {"two"}


def test_the_random_state_goes_on_where_it_was(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path
) -> None:
    from crucible_train.types import ModelInput, SamplingParams

    def draw(client: Any) -> tuple[int, ...]:
        sampler = client.sampling_client().result()
        free = SamplingParams(max_tokens=20, stop=[])
        tokens: tuple[int, ...] = sampler.sample(ModelInput.from_ints([4]), free).result().sequences[0].tokens
        return tokens

    client = make_client(make_backend(), qwen3, tmp_path)
    first = draw(client)
    ref = client.save_state("drawn").result()
    second = draw(client)
    other = make_client(make_backend(), qwen3, tmp_path)
    other.load_state(ref).result()
    assert first != second
    assert draw(other) == second


def test_the_same_name_is_written_again_only_with_the_same_content(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    train(client, 1)
    ref = client.save_state("a").result()
    assert client.save_state("a").result() == ref
    train(client, 1)
    with pytest.raises(ConflictError, match="'a'"):
        client.save_state("a").result()
    assert read_checkpoint(Path(ref.path)).ref == ref


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "-x"])
def test_a_name_that_is_no_file_name_is_refused(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, name: str
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    with pytest.raises(ConfigError, match="checkpoint name"):
        client.save_state(name).result()


@pytest.mark.parametrize(
    "victim", ["adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_present_weights_stay(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, victim: str, harm: str
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    train(client, 1)
    ref = client.save_state("a").result()
    train(client, 1)
    before = everything(client)
    path = Path(ref.path) / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[:-7])
    wanted = NotFoundError if (victim, harm) == ("manifest.json", "remove") else IntegrityError
    with pytest.raises(wanted, match="a" if wanted is NotFoundError else victim):
        client.load_state(ref).result()
    assert identical(before, everything(client))
    train(client, 1)


def test_a_reference_to_other_content_is_refused(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    client = make_client(backend, qwen3, tmp_path)
    ref = client.save_state("a").result()
    with pytest.raises(IntegrityError, match="asked for"):
        client.load_state(ref.model_copy(update={"digest": "sha256:" + "0" * 64})).result()


def test_a_checkpoint_of_another_base_model_is_refused(
    backend: LocalBackend, qwen3: Path, untied: Path, tmp_path: Path
) -> None:
    ref = make_client(backend, qwen3, tmp_path / "one").save_state("a").result()
    other = make_client(backend, untied, tmp_path / "two")
    with pytest.raises(ConfigError, match="base model"):
        other.load_state(ref).result()
    with pytest.raises(ConfigError, match="base model"):
        asyncio.run(backend.create_sampling_client(str(untied), ref))


def test_a_checkpoint_of_another_rank_is_refused(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    ref = make_client(backend, qwen3, tmp_path).save_state("a").result()
    other = make_client(backend, qwen3, tmp_path, LoraConfig(rank=8))
    with pytest.raises(ConfigError, match="same rank"):
        other.load_state(ref).result()
    full = make_client(backend, qwen3, tmp_path, None)
    with pytest.raises(ConfigError, match="same kind of training"):
        full.load_state(ref).result()


def test_weights_alone_load_with_a_fresh_optimizer(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    train(client, 2)
    ref = client.save_weights_for_sampler("w").result()
    other = make_client(backend, qwen3, tmp_path)
    train(other, 1)
    with pytest.raises(ConfigError, match="with_optimizer=False"):
        other.load_state(ref).result()
    other.load_state(ref, with_optimizer=False).result()
    assert identical(client._trainer.weights.masters, other._trainer.weights.masters)
    assert other._trainer.optimizer.steps == 0
    assert not any(moment.any() for moment in other._trainer.optimizer.state().values())


def test_a_full_disk_is_a_storage_error_and_leaves_no_half_checkpoint(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    train(client, 1)
    kept = client.save_state("kept").result()
    train(client, 1)
    for size in (100, 20_000):
        with no_file_larger_than(size), pytest.raises(StorageError, match="free space"):
            client.save_state("lost").result()
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert backend.list_checkpoints(tmp_path) == [kept]
    client.load_state(kept).result()
    assert client.save_state("after").result().step == 1


def test_a_folder_that_cannot_be_made_is_a_storage_error(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    client = make_client(backend, qwen3, tmp_path / "file" / "state")
    with pytest.raises(StorageError):
        client.save_state("a").result()


def test_closing_after_a_save_that_failed_leaves_nothing_for_asyncio_to_complain_about(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    complaints: list[dict[str, Any]] = []
    client = make_client(backend, qwen3, tmp_path)

    async def save_and_close() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with pytest.raises(StorageError):
            await client.save_state("lost")
        await client.close()
        gc.collect()

    with no_file_larger_than(100):
        asyncio.run(save_and_close())
    assert complaints == []


def test_drafts_and_other_folders_are_not_listed(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    client = make_client(backend, qwen3, tmp_path)
    ref = client.save_state("a").result()
    shutil.copytree(ref.path, tmp_path / f".b.draft-{os.getpid()}")
    (tmp_path / "notes").mkdir()
    assert list_checkpoints(tmp_path) == [ref]


def test_drafts_of_dead_processes_are_cleared_and_those_of_live_ones_stay(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, live = tmp_path / f".a.draft-{ended.pid}", tmp_path / f".a.draft-{os.getppid()}"
    for draft in (dead, live):
        draft.mkdir()
        (draft / "half").write_text("x")
    make_client(backend, qwen3, tmp_path).save_state("a").result()
    assert {path.name for path in tmp_path.iterdir()} == {"a", live.name}


def test_a_process_killed_while_saving_leaves_a_whole_checkpoint_or_none(qwen3: Path, tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import LoraConfig
backend = LocalBackend(device="cpu", num_threads=1)
spec = TrainingSpec(base_model={str(qwen3)!r}, lora=LoraConfig(rank=16), seed=1, checkpoint_dir=Path({str(tmp_path)!r}))
client = asyncio.run(backend.create_training_client(spec))
for n in range(100000):
    client.save_state(f"c{{n}}").result()
    print(n, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 3:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    found = list_checkpoints(tmp_path)
    assert len(found) >= 4
    for ref in found:
        assert read_checkpoint(Path(ref.path)).ref == ref


def test_a_format_of_the_future_is_refused(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    ref = make_client(backend, qwen3, tmp_path).save_state("a").result()
    manifest = Path(ref.path) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        read_checkpoint(Path(ref.path))


def test_loading_drops_gradients_that_wait(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    client = make_client(backend, qwen3, tmp_path)
    ref = client.save_state("a").result()
    client.forward_backward(DATA).result()
    client.load_state(ref).result()
    assert client._trainer.gradients.take() == {}
