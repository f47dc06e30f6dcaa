"""The real Tinker SDK and tinker-cookbook against our server: their environment and tests/tinker.

    python tools/sdk.py run [PYTEST ARGUMENTS]   install the group `parity` beside our wheels, run tests/tinker
    python tools/sdk.py matrix [VERSION ...]     one flow through each SDK; prints the table of docs/tinker.md

The versions of `run` are those of the live comparison (tests/parity/requirements.txt). `matrix` serves the bundled tiny
model from this environment and gives each SDK one of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isolation import Bench, packages
from isolation import run as command
from parity import environment
from pins import ROOT, PinsError, read_toml, uv_binary

FOLDER = Path("tests") / "tinker"
OURS = (
    *("crucible-gateway", "crucible-torch", "crucible-kitchen[math,datasets,tinker]"),
    *("crucible-cookbook", "crucible-tiny", "crucible-testing"),
)
VERSIONS = (
    *("0.16.1", "0.18.2", "0.22.0", "0.22.7", "0.23.4", "0.24.1", "0.25.0"),
    *("0.26.2", "0.28.1", "0.30.4", "0.32.0", "0.33.1", "0.34.0", "0.36.0", "0.38.0"),
)
# Where the SDK itself cannot do what it has a method for.
THEIR_OWN = {("0.22.0", "archive")}
PARTS = {
    "create": "create",
    "train": "train",
    "forward": "forward",
    "save": "save",
    "resume": "resume",
    "sample": "sample",
    "logprobs": "log-probabilities",
    "list": "list",
    "archive": "archive",
    "close": "close",
}


def run(python: Path, arguments: list[str]) -> int:
    """Run tests/tinker with `python`; returns pytest's status."""
    settings = [f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    for leak in (
        "ResourceWarning",
        "pytest.PytestUnraisableExceptionWarning",
    ):  # sockets of the SDK's own thread
        settings += ["-W", f"ignore::{leak}"]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / FOLDER),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    chosen = [] if any("test_" in word for word in arguments) else [str(ROOT / FOLDER)]
    pytest = [str(python), "-P", "-m", "pytest", "-q", "--show-capture=no", *settings, *arguments, *chosen]
    return subprocess.run(pytest, cwd=ROOT, env=env, check=False).returncode


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the bundled tiny model."""
    import crucible_tiny

    crucible = Path(sys.executable).parent / "crucible"
    model = f"Tiny/tiny={crucible_tiny.model_path()}"
    words = [
        str(crucible),
        "serve",
        "tinker",
        "--model",
        model,
        "--port",
        "0",
        "--state",
        str(folder),
        "--json",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        text = ""
        while not text.endswith("}\n"):
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise PinsError("the server did not start")
            text += line
        try:
            yield str(json.loads(text)["url"])
        finally:
            server.terminate()


def flow(version: str, url: str, folder: Path) -> dict[str, Any]:
    """What works of that SDK."""
    newest = read_toml(ROOT / "pyproject.toml")["tool"]["uv"]["exclude-newer"]
    place = folder / version
    command(uv_binary(), "venv", "--quiet", "--python", sys.executable, place, cwd=folder)
    python = place / "bin" / "python"
    install = (uv_binary(), "pip", "install", "--quiet", "--no-config", "--python", python)
    command(*install, "--exclude-newer", newest, f"tinker=={version}", cwd=folder)
    script = ROOT / FOLDER / "flow_of_a_version.py"
    found: dict[str, Any] = json.loads(
        command(python, "-P", script, url, "Tiny/tiny", cwd=folder).splitlines()[-1]
    )
    return found


def matrix(versions: tuple[str, ...]) -> int:
    """Print the table; returns 1 where something that a version has does not work, or numbers differ."""
    print(f"| SDK | {' | '.join(PARTS.values())} |")
    print(f"|---|{'---|' * len(PARTS)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="crucible-sdk-") as name:
        folder = Path(name)
        with served(folder / "state") as url:
            for version in versions:
                rows.append(flow(version, url, folder))
                cells = [{"ok": "yes", None: "–"}.get(rows[-1].get(part), "no") for part in PARTS]
                print(f"| {version} | {' | '.join(cells)} |", flush=True)
    bad = [
        f"{row['version']} {part}: {row[part]}"
        for row in rows
        for part in PARTS
        if row.get(part, "ok") != "ok" and (row["version"], part) not in THEIR_OWN
    ]
    numbers = {json.dumps([row["losses"], row["tokens"], row["scored"]]) for row in rows}
    for line in bad:
        print(line, file=sys.stderr)
    print(f"{'equal' if len(numbers) == 1 else 'different'} losses, tokens and log-probabilities")
    return 1 if bad or len(numbers) > 1 else 0


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=["run", "matrix"])
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.job == "matrix":
            return matrix(tuple(rest) or VERSIONS)
        with tempfile.TemporaryDirectory(prefix="crucible-sdk-") as folder:
            return run(environment(Bench(folder=Path(folder), known=packages()), OURS), rest)
    except (subprocess.CalledProcessError, PinsError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
