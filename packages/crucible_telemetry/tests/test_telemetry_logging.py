"""Log lines of an application, and the silence of the library."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog

from crucible_ir import ConfigError
from crucible_ir.redaction import Redactor
from crucible_telemetry.logging import configure

TOKEN = "planted-token-123456"


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_carry_fields_level_and_time():
    stream = io.StringIO()
    configure(level="info", render="json", stream=stream)
    structlog.get_logger("crucible.test").info("step done", step=3, path={"a": (1, 2)}, thing=object)
    line = json.loads(stream.getvalue())
    assert line["event"] == "step done"
    assert (line["level"], line["logger"], line["step"], line["path"]) == (
        "info",
        "crucible.test",
        3,
        {"a": [1, 2]},
    )
    assert line["timestamp"].endswith("Z")
    assert line["thing"] == "<class 'object'>"


@pytest.mark.parametrize("render", ["json", "console"])
def test_a_planted_token_appears_in_no_line(render):
    stream = io.StringIO()
    configure(level="debug", render=render, stream=stream, redactor=Redactor(secrets=frozenset({TOKEN})))
    log = structlog.get_logger("crucible.test")
    log.info(f"using {TOKEN}", header={"x": [TOKEN]}, api_key="short")
    logging.getLogger("httpx").warning("GET https://x/?k=%s", TOKEN)
    try:
        raise ValueError(f"bad {TOKEN}")
    except ValueError:
        log.exception("failed")
        logging.getLogger("other").exception("failed too")
    text = stream.getvalue()
    assert TOKEN not in text
    assert "short" not in text
    assert text.count("[redacted]") >= 5
    assert "Traceback" in text


def test_secrets_of_the_environment_are_taken_out_by_default(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    stream = io.StringIO()
    configure(level="info", render="json", stream=stream)
    structlog.get_logger().info(f"a {TOKEN} b")
    assert json.loads(stream.getvalue())["event"] == "a [redacted] b"


def test_lines_below_the_level_are_left_out():
    stream = io.StringIO()
    configure(level="warning", render="console", stream=stream)
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    structlog.get_logger("a").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_configuring_again_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    configure(stream=first)
    configure(stream=second)
    structlog.get_logger("a").error("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_an_unknown_level_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'warning'"):
        configure(level="warnin")
    with pytest.raises(ConfigError, match="valid: debug"):
        configure(level="7")


def test_importing_the_package_configures_nothing_and_loads_no_structlog():
    code = (
        "import logging, sys, crucible_telemetry\n"
        "assert not logging.getLogger().handlers\n"
        "assert 'structlog' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
