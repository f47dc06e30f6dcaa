from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from crucible_ir import AdapterError, BackendRef, ConfigError, MetricRow, NotFoundError, TrainError
from crucible_kitchen.manifests.credentials import credential_names, redactor_for, scrub
from crucible_kitchen.manifests.loading import load_manifest, profiles
from crucible_kitchen.manifests.manifest import AdapterChoice, Manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.plugins.discovery import find
from crucible_kitchen.plugins.groups import group_of

SECRET = "planted-secret-9317"


def manifest(**ports: AdapterChoice) -> Manifest:
    return Manifest(profile="mine", ports=ports)


def ports_of(chosen: Manifest, home: Path, **environ: str) -> ManifestPorts:
    return ManifestPorts(chosen, home=home, environ=environ)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_built_in_profiles_are_these_five() -> None:
    assert profiles() == ("dev", "offline", "prod", "test", "tinker")


@pytest.mark.parametrize("name", ["dev", "offline", "prod", "test"])
def test_every_adapter_of_a_built_in_profile_is_installed(name: str, tmp_path: Path) -> None:
    chosen = load_manifest(name)
    assert chosen.profile == name
    assert {"training_backend", "dataset_store", "metrics_store", "model_registry", "blob_store"} <= set(
        chosen.ports
    )
    ports_of(chosen, tmp_path).check()


def test_offline_is_all_local() -> None:
    chosen = {port: choice.adapter for port, choice in load_manifest("offline").ports.items()}
    assert chosen == {
        "training_backend": "local",
        "dataset_store": "local",
        "metrics_store": "jsonl",
        "model_registry": "sqlite",
        "blob_store": "local",
        "python_bridge": "math",
    }


def test_offline_never_asks_the_hub_for_a_model_and_dev_may() -> None:
    asks = {name: load_manifest(name).ports["training_backend"].options for name in profiles()}
    assert asks["offline"] == asks["test"] == {"local_files_only": True}
    assert asks["dev"] == asks["prod"] == {}
    assert "local_files_only" not in asks["tinker"]


def test_prod_extends_dev_which_extends_offline() -> None:
    chosen = load_manifest("prod").ports
    assert chosen["metrics_store"].adapter == "sqlite"
    assert chosen["dataset_store"].adapter == "huggingface"
    assert chosen["blob_store"].adapter == "local"


def test_the_service_is_asked_with_the_key_of_a_variable_that_has_to_be_set(tmp_path: Path) -> None:
    chosen = load_manifest("tinker")
    assert chosen.ports["training_backend"].options == {"api_key": {"env": "TINKER_API_KEY"}}
    assert chosen.ports["dataset_store"].adapter == "huggingface"
    with pytest.raises(ConfigError, match="TINKER_API_KEY is not set"):
        ports_of(chosen, tmp_path).check()
    ports_of(chosen, tmp_path, TINKER_API_KEY="tml-something").check()


def test_an_unknown_profile_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no manifest 'offlin'; did you mean 'offline'\?"):
        load_manifest("offlin")
    with pytest.raises(ConfigError, match="built in: dev, offline, prod, test, tinker"):
        load_manifest("zzzzzz")


def test_a_file_of_the_users_own_starts_from_a_profile(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.toml",
        'profile = "mine"\nextends = "offline"\n[ports.metrics_store]\nadapter = "sqlite"\n',
    )
    chosen = load_manifest(path)
    assert chosen.ports["metrics_store"].adapter == "sqlite"
    assert chosen.ports["training_backend"].adapter == "local"


def test_all_problems_of_a_file_come_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    text = 'profile = "m"\ndescripton = "x"\n[ports.metrics_store]\nadaptor = "jsonl"\n'
    with pytest.raises(ConfigError) as caught:
        load_manifest(write(tmp_path / "bad.toml", text))
    told = str(caught.value)
    assert "did you mean 'description'" in told
    assert "did you mean 'adapter'" in told
    assert len(caught.value.problems) == 3


def test_an_unknown_port_is_told_with_the_nearest(tmp_path: Path) -> None:
    text = 'profile = "m"\n[ports.metric_store]\nadapter = "jsonl"\n[ports.zzz]\nadapter = "x"\n'
    with pytest.raises(ConfigError) as caught:
        load_manifest(write(tmp_path / "bad.toml", text))
    assert "did you mean 'metrics_store'" in str(caught.value)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("profile = nothing\n", "not TOML: .*line 1"),
        ('profile = "m"\nextends = "nothing_like"\n', "no manifest 'nothing_like'"),
        ('profile = "m"\nextends = "./other.toml"\n', "not a built-in profile"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_manifest(write(tmp_path / "bad.toml", text))


def test_a_missing_or_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no manifest file"):
        load_manifest(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_manifest(f"{tmp_path}/")


def test_overrides_choose_adapters_and_lay_options_over() -> None:
    base = manifest(
        metrics_store=AdapterChoice(adapter="jsonl", options={"root": "/a"}),
        blob_store=AdapterChoice(adapter="local", options={"root": "/b"}),
    )
    changed = base.with_overrides(
        BackendRef(
            adapters={"metrics_store": "sqlite", "blob_store": "local"},
            options={"blob_store": {"root": "/c"}},
        )
    )
    assert changed.ports["metrics_store"] == AdapterChoice(adapter="sqlite")
    assert changed.ports["blob_store"].options == {"root": "/c"}


def test_wrong_overrides_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        manifest().with_overrides(
            BackendRef(adapters={"metric_store": "x"}, options={"blob_store": {}, "zz": {}})
        )
    told = str(caught.value)
    assert "did you mean 'metrics_store'" in told
    assert "names no adapter for 'blob_store'" in told
    assert "no port 'zz'" in told


def test_a_secret_in_plain_text_is_refused_in_files_and_overrides(tmp_path: Path) -> None:
    text = f'profile = "m"\n[ports.hub_client]\nadapter = "huggingface"\noptions = {{ token = "{SECRET}" }}\n'
    with pytest.raises(ConfigError, match="secret in plain text; write token = ") as caught:
        load_manifest(write(tmp_path / "bad.toml", text))
    assert SECRET not in str(caught.value)
    base = manifest(hub_client=AdapterChoice(adapter="huggingface"))
    with pytest.raises(ConfigError, match="secret in plain text") as caught:
        base.with_overrides(BackendRef(options={"hub_client": {"api_key": SECRET}}))
    assert SECRET not in str(caught.value)


def test_adapters_are_built_lazily_once_with_folders_under_the_home(tmp_path: Path) -> None:
    ports = ports_of(load_manifest("offline"), tmp_path)
    assert "metrics_store" in ports.names()
    assert ports.manifest.profile == "offline"
    store = ports.get("metrics_store")
    assert ports.get("metrics_store") is store
    store.log("run_1_00000000", MetricRow(step=1, metrics={"a": 1.0}))
    assert (tmp_path / "runs" / "run_1_00000000" / "metrics.jsonl").exists()
    anyio.run(ports.aclose)


def test_a_root_in_the_manifest_counts(tmp_path: Path) -> None:
    choice = AdapterChoice(adapter="jsonl", options={"root": str(tmp_path / "elsewhere")})
    store = ports_of(manifest(metrics_store=choice), tmp_path).get("metrics_store")
    store.log("run_1_00000000", MetricRow(step=1, metrics={"a": 1.0}))
    assert (tmp_path / "elsewhere" / "run_1_00000000" / "metrics.jsonl").exists()
    store.close()


def test_a_port_that_the_manifest_does_not_name_says_what_to_add(tmp_path: Path) -> None:
    ports = ports_of(manifest(), tmp_path)
    with pytest.raises(AdapterError, match=r"no adapter for the port 'blob_store'; add \[ports.blob_store\]"):
        ports.get("blob_store")
    with pytest.raises(AdapterError, match="there is no port 'blobstore'"):
        ports.get("blobstore")


ADAPTERS = """
from crucible_ir import TrainError
class Store:
    closed = []
    def __init__(self, size, *, home, colour="red", key="", **rest):
        self.size, self.home, self.key, self.rest = size, home, key, rest
    def log(self, run_id, row): ...
    def flush(self): ...
    def read(self, run_id, after_step=None): return []
    def position(self, run_id): return 0
    def truncate(self, run_id, position): ...
    def close(self): self.closed.append("store")
class Strict(Store):
    def __init__(self, size, *, home, colour="red"):
        super().__init__(size, home=home)
class Lazy(Store):
    def __init__(self): import sdk_that_is_absent
class Angry(Store):
    def __init__(self): raise ValueError("no")
class Ours(Store):
    def __init__(self): raise TrainError(what="ours")
class Failing(Store):
    def __init__(self): ...
    async def aclose(self): raise RuntimeError("would not close")
class Plain(Store):
    def __init__(self): ...
    close = None
def half(): return object()
"""
ENTRIES = "[crucible.metrics_store]\n" + "\n".join(
    f"{name} = odd_adapters:{value}"
    for name, value in {
        "open": "Store",
        "strict": "Strict",
        "lazy": "Lazy",
        "angry": "Angry",
        "ours": "Ours",
        "half": "half",
        "failing": "Failing",
    }.items()
)


@pytest.fixture
def odd(package: Callable[..., Path]) -> None:
    package("odd-adapters", {"odd_adapters.py": ADAPTERS}, ENTRIES + "\n")


@pytest.mark.usefixtures("odd")
def test_variables_home_and_open_options_reach_the_adapter(tmp_path: Path) -> None:
    choice = AdapterChoice(adapter="open", options={"size": 3, "key": {"env": "MY_KEY"}, "extra": 1})
    store = ports_of(manifest(metrics_store=choice), tmp_path, MY_KEY=SECRET).get("metrics_store")
    assert (store.size, store.home, store.key, store.rest) == (3, tmp_path, SECRET, {"extra": 1})


@pytest.mark.usefixtures("odd")
def test_wrong_options_are_told_all_at_once(tmp_path: Path) -> None:
    choice = AdapterChoice(adapter="strict", options={"color": "blue", "zzz": 1})
    with pytest.raises(ConfigError) as caught:
        ports_of(manifest(metrics_store=choice), tmp_path).get("metrics_store")
    told = str(caught.value)
    assert "'strict' of odd-adapters has no option 'color'; did you mean 'colour'?" in told
    assert "no option 'zzz'; options: size, home, colour" in told
    assert "size: 'strict' needs this option" in told


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ("lazy", "needs the module 'sdk_that_is_absent'"),
        ("angry", r"cannot be made \(ValueError: no\); correct \[ports.metrics_store\]"),
        ("half", "does not fit the port MetricsStore: missing log"),
    ],
)
def test_an_adapter_that_cannot_be_made_is_one_sentence(tmp_path: Path, adapter: str, says: str) -> None:
    with pytest.raises(AdapterError, match=says):
        ports_of(manifest(metrics_store=AdapterChoice(adapter=adapter)), tmp_path).get("metrics_store")


@pytest.mark.usefixtures("odd")
def test_our_own_errors_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="ours"):
        ports_of(manifest(metrics_store=AdapterChoice(adapter="ours")), tmp_path).get("metrics_store")


@pytest.mark.usefixtures("odd")
def test_every_adapter_is_closed_even_when_one_fails(tmp_path: Path) -> None:
    chosen = manifest(
        metrics_store=AdapterChoice(adapter="open", options={"size": 1}),
        blob_store=AdapterChoice(adapter="memory"),
    )
    ports = ports_of(chosen, tmp_path)
    store = ports.get("metrics_store")
    ports.get("blob_store")
    anyio.run(ports.aclose)
    assert store.closed == ["store"]
    failing = ports_of(manifest(metrics_store=AdapterChoice(adapter="failing")), tmp_path)
    failing.get("metrics_store")
    with pytest.raises(RuntimeError, match="would not close"):
        anyio.run(failing.aclose)
    anyio.run(failing.aclose)
    ports.close()
    ports.get("metrics_store")
    ports.close()
    assert store.closed == ["store", "store"]


def test_unset_variables_are_told_before_anything_is_built(tmp_path: Path) -> None:
    choice = AdapterChoice(adapter="jsonl", options={"root": {"env": "NOT_SET_A"}, "x": {"env": "NOT_SET_B"}})
    ports = ports_of(manifest(metrics_store=choice), tmp_path)
    with pytest.raises(ConfigError) as caught:
        ports.check()
    assert len(caught.value.problems) == 2
    assert "environment variable NOT_SET_A is not set" in str(caught.value)
    with pytest.raises(ConfigError, match="NOT_SET_A is not set"):
        ports.get("metrics_store")


def test_an_unknown_adapter_is_seen_by_the_check(tmp_path: Path) -> None:
    ports = ports_of(manifest(metrics_store=AdapterChoice(adapter="jsnl")), tmp_path)
    with pytest.raises(AdapterError, match="did you mean 'jsonl'"):
        ports.check()


def test_credentials_are_known_by_the_names_of_their_variables(tmp_path: Path) -> None:
    environ = {
        "HF_TOKEN": SECRET,
        "TINKER_API_KEY": "x" * 8,
        "MY_SECRET": "y" * 8,
        "EMPTY_TOKEN": "",
        "PATH": "/bin",
        "PWD": str(tmp_path),
        "SOME_CREDENTIALS": str(tmp_path),
        "ODD_TOKEN": "/" + "z" * 5000,
    }
    assert credential_names(environ) == ("HF_TOKEN", "MY_SECRET", "ODD_TOKEN", "TINKER_API_KEY")
    assert redactor_for(environ).text(f"{SECRET} in {tmp_path}") == f"[redacted] in {tmp_path}"


def test_variables_that_a_manifest_refers_to_are_secrets_whatever_their_names() -> None:
    choice = AdapterChoice(adapter="jsonl", options={"root": {"env": "PLAIN"}, "x": {"env": "ABSENT"}})
    redactor = redactor_for({"PLAIN": SECRET}, manifest(metrics_store=choice))
    assert redactor({"a": [SECRET]}) == {"a": ["[redacted]"]}


def test_errors_are_scrubbed_in_every_part() -> None:
    redactor = redactor_for({"HF_TOKEN": SECRET})
    error = ConfigError(what=f"bad {SECRET}", where=SECRET, remedy=f"not {SECRET}")
    scrub(error, redactor)
    assert SECRET not in f"{error!s} {error!r} {error.problems!r}"
    plain = TrainError(what=SECRET)
    scrub(plain, redactor)
    assert SECRET not in f"{plain!s} {plain!r}"


def test_every_adapter_group_is_named_after_its_port() -> None:
    assert find(group_of("metrics_store").group, "jsonl").group == "crucible.metrics_store"


def test_a_manifest_says_what_to_install_for_an_adapter_that_is_not_there(tmp_path: Path) -> None:
    missing = AdapterChoice(adapter="cloud", package="crucible-cloud[gpu]")
    ports = ports_of(manifest(training_backend=missing), tmp_path)
    for look in (ports.check, lambda: ports.get("training_backend")):
        with pytest.raises(
            AdapterError, match=r"adds 'cloud'; install crucible-cloud\[gpu\], or choose another"
        ):
            look()


def test_the_built_in_profiles_say_what_to_install() -> None:
    chosen = load_manifest("dev").ports
    assert chosen["training_backend"].package == "crucible-kitchen[torch]"
    assert chosen["dataset_store"].package == "crucible-kitchen[datasets]"
    assert chosen["hub_client"].package == "crucible-kitchen[hub]"
