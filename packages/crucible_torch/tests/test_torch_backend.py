"""The backend: lazy, one base for many clients, and clear about what it cannot do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, ConflictError, IntegrityError, NotFoundError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig

DATA = [make_datum([3, 9, 27, 81, 243])]


def spec_for(model: Path | str, folder: Path, **changes: Any) -> TrainingSpec:
    values: dict[str, Any] = {"lora": LoraConfig(rank=4), "seed": 1, **changes}
    return TrainingSpec(base_model=str(model), checkpoint_dir=folder, **values)


def edited(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a model folder with other config entries."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_making_a_backend_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from crucible_torch import LocalBackend; b = LocalBackend();"
        "b.capabilities();"
        "print(sorted({'torch', 'transformers', 'peft', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_checking_a_folder_imports_no_torch(qwen3: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from crucible_torch import LocalBackend;"
        "from crucible_train.ports import TrainingSpec; b = LocalBackend();"
        f"b.check(TrainingSpec(base_model={str(qwen3)!r}, lora=None, seed=0, checkpoint_dir=Path('x')));"
        f"b.model_digest({str(qwen3)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_base_is_loaded_once_and_never_changes(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    def base_digest(client: Any) -> str:
        content = hashlib.sha256()
        for name, tensor in sorted(client._trainer.model.module.state_dict().items()):
            content.update(name.encode() + tensor.numpy().tobytes())
        return content.hexdigest()

    clients: list[Any] = [
        asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path, seed=seed))) for seed in (1, 2)
    ]
    before = base_digest(clients[0])
    assert clients[0]._trainer.model is clients[1]._trainer.model
    for client in clients:
        client.forward_backward(DATA)
        client.optim_step(AdamParams(learning_rate=0.1)).result()
    assert base_digest(clients[0]) == before
    leaves = [client._trainer.weights.leaves["lm_head.lora_A.weight"] for client in clients]
    assert not (leaves[0] == leaves[1]).any()


def test_full_finetuning_leaves_the_shared_base_as_it_is(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    adapter: Any = asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path)))
    full: Any = asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path, lora=None)))
    before = adapter.forward(DATA).result()
    full.forward_backward(DATA)
    full.optim_step(AdamParams(learning_rate=0.1)).result()
    assert adapter.forward(DATA).result() == before


def test_the_seed_of_the_adapter_decides_its_start(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    def start(**changes: Any) -> Any:
        client: Any = asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path, **changes)))
        leaves = client._trainer.weights.leaves
        assert not any(leaf.any() for name, leaf in leaves.items() if "lora_B" in name)
        return leaves["model.layers.1.mlp.up_proj.lora_A.weight"]

    assert (start(seed=1) == start(seed=1)).all()
    assert not (start(seed=1) == start(seed=2)).any()
    assert (start(seed=1) == start(seed=5, lora=LoraConfig(rank=4, seed=1))).all()
    bound = 1 / 32**0.5
    assert start(seed=1).abs().max() <= bound
    assert start(seed=1).abs().max() > 0.9 * bound


def test_the_kinds_of_layers_are_those_that_were_asked_for(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    def trained(**flags: bool) -> set[str]:
        lora = LoraConfig(
            rank=4, **{"train_attn": False, "train_mlp": False, "train_unembed": False, **flags}
        )
        client: Any = asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path, lora=lora)))
        return {name.split(".lora_")[0].rpartition(".")[2] for name in client._trainer.weights.leaves}

    assert trained(train_attn=True) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert trained(train_mlp=True) == {"gate_proj", "up_proj", "down_proj"}
    assert trained(train_unembed=True) == {"lm_head"}


def test_the_digest_is_of_content(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    same = tmp_path / "elsewhere"
    shutil.copytree(qwen3, same)
    assert backend.model_digest(str(same)) == backend.model_digest(str(qwen3))
    weights = same / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert backend.model_digest(str(same)) != backend.model_digest(str(qwen3))
    other = edited(qwen3, tmp_path / "other", rms_norm_eps=1e-5)
    assert backend.model_digest(str(other)) != backend.model_digest(str(qwen3))


def test_a_model_that_the_hub_does_not_give_says_why_and_what_to_do(
    make_backend: Callable[..., LocalBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("nobody/nothing is not there\nfurther lines")

    monkeypatch.setattr("transformers.utils.cached_file", refuse)
    with pytest.raises(NotFoundError, match=r"from the hub \(nobody/nothing is not there\); .*HF_TOKEN"):
        make_backend(local_files_only=False).check(spec_for("nobody/nothing", tmp_path))


def test_a_missing_model_says_what_to_do(backend: LocalBackend, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder .*hub id"):
        backend.check(spec_for(tmp_path / "absent", tmp_path))
    with pytest.raises(NotFoundError, match=r"nobody/nothing.*nor in the .* cache; .*such as dev"):
        backend.check(spec_for("nobody/nothing", tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"config\.json"):
        backend.check(spec_for(tmp_path / "empty", tmp_path))
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        backend.check(spec_for(tmp_path / "empty", tmp_path))
    (tmp_path / "empty" / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="JSON object"):
        backend.check(spec_for(tmp_path / "empty", tmp_path))


def cached(model: Path, cache: Path, name: str, *, shards: int) -> None:
    """Put a model into a hub cache, as the hub's client lays it out."""
    from safetensors.torch import load_file, save_file

    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "c0ffee"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    shutil.copytree(model, snapshot)
    if shards > 1:
        tensors = load_file(snapshot / "model.safetensors")
        (snapshot / "model.safetensors").unlink()
        owner = {key: f"part-{n % shards}.safetensors" for n, key in enumerate(sorted(tensors))}
        for part in set(owner.values()):
            held = {key: tensors[key] for key, place in owner.items() if place == part}
            save_file(held, snapshot / part, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": owner}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_hub_id_is_served_from_the_cache(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached(qwen3, tmp_path / "hub", "someone/tiny", shards=shards)
    backend.check(spec_for("someone/tiny", tmp_path))
    here = asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path)))
    there = asyncio.run(backend.create_training_client(spec_for("someone/tiny", tmp_path)))
    assert there.forward(DATA).result() == here.forward(DATA).result()
    assert asyncio.run(backend.load_tokenizer("someone/tiny")).vocab_size > 250
    assert (backend.model_digest("someone/tiny") == backend.model_digest(str(qwen3))) is (shards == 1)


def test_a_hub_model_without_safetensors_is_not_found(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached(qwen3, tmp_path / "hub", "someone/tiny", shards=1)
    (tmp_path / "hub/models--someone--tiny/snapshots/c0ffee/model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="someone/tiny"):
        backend.model_digest("someone/tiny")


def test_pickled_weights_are_never_loaded(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    folder = edited(qwen3, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(NotFoundError, match="pickled weights are never loaded"):
        backend.check(spec_for(folder, tmp_path))


def test_an_index_that_names_a_missing_file_is_not_found(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    folder = edited(qwen3, tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}))
    with pytest.raises(NotFoundError, match=r"part-2\.safetensors"):
        backend.check(spec_for(folder, tmp_path))


@pytest.mark.parametrize(
    ("lora", "named"),
    [
        (LoraConfig(rank=17), "num_key_value_heads × head_dim = 16"),
        (LoraConfig(rank=33, train_attn=False), "hidden_size = 32"),
        (LoraConfig(rank=65, train_attn=False, train_unembed=False), "hidden_size = 32"),
    ],
)
def test_a_rank_wider_than_a_layer_is_refused_before_loading(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, lora: LoraConfig, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        backend.check(spec_for(qwen3, tmp_path, lora=lora))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({"num_experts": 8}, "mixture of experts"),
    ],
)
def test_a_model_that_is_not_supported_is_refused_before_loading(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    folder = edited(qwen3, tmp_path / "odd", **change)
    with pytest.raises(ConfigError, match=named):
        backend.check(spec_for(folder, tmp_path))


def test_every_obstacle_is_named_at_once(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    folder = edited(qwen3, tmp_path / "odd", num_experts=8, logit_scale=0.5)
    with pytest.raises(ConfigError) as caught:
        backend.check(spec_for(folder, tmp_path, lora=LoraConfig(rank=99)))
    assert len(caught.value.problems) == 3


def test_a_model_type_that_transformers_does_not_know_is_refused(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    folder = edited(qwen3, tmp_path / "odd", model_type="nobodys", auto_map={"AutoModelForCausalLM": "x.Y"})
    with pytest.raises(ConfigError, match="remote code is never run"):
        asyncio.run(backend.create_training_client(spec_for(folder, tmp_path)))


@pytest.mark.parametrize("harm", ["cut", "missing", "narrow"])
def test_damaged_weights_are_refused_and_never_drawn_at_random(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, harm: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = edited(qwen3, tmp_path / "damaged")
    path = folder / "model.safetensors"
    name = "model.layers.0.mlp.gate_proj.weight"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        tensors = load_file(path)
        kept = {name: tensors.pop(name)[:1].clone()}
        save_file(tensors if harm == "missing" else tensors | kept, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="damaged"):
        asyncio.run(backend.create_training_client(spec_for(folder, tmp_path)))


def test_an_adapter_without_layers_or_wider_than_its_layers_is_refused() -> None:
    import torch

    from crucible_torch.adapter import fresh_adapter

    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="no layer"):
        fresh_adapter({}, LoraConfig(), seed=0, device=cpu)
    with pytest.raises(ConfigError, match="width 8 of small"):
        fresh_adapter({"large": (64, 64), "small": (8, 64)}, LoraConfig(rank=9), seed=0, device=cpu)


def test_a_config_without_a_model_type_is_refused(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    folder = edited(qwen3, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="model_type"):
        backend.check(spec_for(folder, tmp_path))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"logprobs_at": "everywhere"}, "logprobs_at"),
        ({"num_threads": 0}, "num_threads = 0"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens"),
        ({"head_rows": -1}, "head_rows"),
    ],
)
def test_an_option_outside_its_range_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LocalBackend(**options)


def test_a_gpu_that_is_not_there_is_refused(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    backend = make_backend(device="cuda")
    with pytest.raises(ConfigError, match="sees no GPU"):
        asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path)))


def test_automatic_choice_on_a_machine_without_gpu_is_exact(
    make_backend: Callable[..., LocalBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from crucible_torch.model import choose_device, choose_dtype

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    assert choose_dtype(choose_device("auto"), "auto") == torch.float32
    assert choose_dtype(choose_device("auto"), "bfloat16") == torch.bfloat16
    monkeypatch.setattr("crucible_torch.backend._GPU_DEVICE", Path("no-such-device"))
    assert make_backend(device="auto").capabilities().exact_resume
    monkeypatch.setattr("crucible_torch.backend._GPU_DEVICE", Path(__file__))
    assert not make_backend(device="auto").capabilities().exact_resume
    assert make_backend(device="cpu").capabilities().exact_resume


def test_a_closed_backend_takes_no_more_work(qwen3: Path, tmp_path: Path) -> None:
    backend = LocalBackend(device="cpu")
    client = asyncio.run(backend.create_training_client(spec_for(qwen3, tmp_path)))
    asyncio.run(backend.close())
    with pytest.raises(ConflictError, match="closed"):
        client.forward(DATA)


def test_the_entry_point_leads_here() -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="crucible.training_backend", name="local")
    assert found.load() is LocalBackend
