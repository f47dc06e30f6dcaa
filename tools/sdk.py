"""The real Tinker SDK and tinker-cookbook against our server: their environment and tests/tinker.

    python tools/sdk.py run [PYTEST ARGUMENTS]   install the group `parity` beside our wheels, run tests/tinker

The versions are those of the live comparison (tests/parity/requirements.txt).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from isolation import Bench, packages
from parity import environment
from pins import ROOT, PinsError

FOLDER = Path("tests") / "tinker"
OURS = ("crucible-gateway", "crucible-torch", "crucible-kitchen[math]", "crucible-testing")


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
    command = [str(python), "-P", "-m", "pytest", "-q", "--show-capture=no", *settings, *arguments, *chosen]
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=["run"])
    _, rest = parser.parse_known_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="crucible-sdk-") as folder:
            return run(environment(Bench(folder=Path(folder), known=packages()), OURS), rest)
    except (subprocess.CalledProcessError, PinsError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
