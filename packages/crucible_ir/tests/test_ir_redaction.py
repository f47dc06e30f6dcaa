"""Taking secrets out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import REDACTED, Redactor, redact
from crucible_ir.redaction import is_secret_name, secrets_in

PLANTED = 'pl4nted-s3cret/with+chars&quotes"é'

SHAPES = [
    "hf_" + "aB3" * 11,
    "sk-" + "proj-Ab1" * 5,
    "sk-ant-api03-" + "x1Y2" * 10,
    "tml-" + "abcDEF123456",
    "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "github_pat_" + "11ABCDEFG0abcdefghij_klmnop",
    "glpat-" + "abcdefghij1234567890",
    "xoxb-" + "123456789012-abcdefABCDEF",
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "IOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLWhlcmU",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\ndef==\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SHAPES, ids=lambda secret: secret[:8])
@pytest.mark.parametrize("text", ["{}", "before {} after", "x={};", "[{}]", "'{}'", "a\n{}\nb"])
def test_a_secret_of_a_well_known_shape_goes_and_the_rest_stays(secret: str, text: str) -> None:
    assert redact(text.format(secret)) == text.format(REDACTED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc123def", f"Authorization: Bearer {REDACTED}"),
        ("{'Authorization': 'Bearer abc123def'}", f"{{'Authorization': 'Bearer {REDACTED}'}}"),
        ("sent Bearer abc123def.456 to it", f"sent Bearer {REDACTED} to it"),
        ("authorization: Basic dXNlcjpwYXNz", f"authorization: Basic {REDACTED}"),
        ('{"Authorization": "token abcdef"}', f'{{"Authorization": "token {REDACTED}"}}'),
        ("https://ann:pa55@host/x", f"https://{REDACTED}@host/x"),
        ("postgres://u:p%40ss@h:5432/db", f"postgres://{REDACTED}@h:5432/db"),
        ("https://h/x?token=abcd&y=1", f"https://h/x?token={REDACTED}&y=1"),
        ("https://h/x?a=1&api_key=abcd", f"https://h/x?a=1&api_key={REDACTED}"),
        ("HF_TOKEN=abcdef python run.py", f"HF_TOKEN={REDACTED} python run.py"),
        ("aws_secret_access_key = wJalrXUtnFEMI", f"aws_secret_access_key = {REDACTED}"),
        ("password: hunter2, user: ann", f"password: {REDACTED}, user: ann"),
        ('{"client_secret": "abc"}', f'{{"client_secret": "{REDACTED}"}}'),
        ("{'password': 'abc def'}", None),
    ],
)
def test_credentials_in_text_urls_and_headers_go(text: str, expected: str | None) -> None:
    out = redact(text)
    assert out == expected if expected else "abc" not in out


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=512 tokens=5 token=5",
        "the bearer of news",
        "stop token: <|im_end|>",
        "task-abc-123456789012345678",
        "hf_datasets and hf_hub",
        "https://host/path?step=1@2",
        "learning_rate=3e-4 idempotency_key=run-1",
        "sk-learn-is-a-library-of-models",
        "mail ann@example.org",
        "secret_key=None",
        "",
    ],
)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api_key", True),
        ("apiKey", True),
        ("APIKEY", True),
        ("OPENAI_API_KEY", True),
        ("X-Api-Key", True),
        ("hfToken", True),
        ("HF_TOKEN", True),
        ("access_token", True),
        ("password", True),
        ("db_passwd", True),
        ("client-secret", True),
        ("Authorization", True),
        ("aws_secret_access_key", True),
        ("aws_access_key_id", True),
        ("max_tokens", False),
        ("prompt_tokens", False),
        ("tokenizer", False),
        ("eos_token", False),
        ("pad_token_id", False),
        ("idempotency_key", False),
        ("key", False),
        ("author", False),
        ("secretary", False),
        ("learning_rate", False),
    ],
)
def test_a_secret_is_known_by_the_name_of_its_field(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_values_of_fields_named_like_secrets_go_whatever_they_hold() -> None:
    value = {
        "api_key": "short",
        "credentials": {"user": "ann", "deep": ["x"]},
        "password": 1234,
        "headers": [{"Authorization": "anything at all"}],
        "token": "abc",
    }
    assert redact(value) == {
        "api_key": REDACTED,
        "credentials": REDACTED,
        "password": REDACTED,
        "headers": [{"Authorization": REDACTED}],
        "token": REDACTED,
    }


def test_absence_truth_and_token_ids_stay_in_fields_named_like_secrets() -> None:
    value = {"token": 17, "stop_token": [1, 2], "access_token": None, "password": "", "auth": True}
    assert redact(value) == value


def test_the_name_of_a_variable_that_holds_a_secret_stays() -> None:
    options = {"api_key": {"env": "TINKER_API_KEY"}, "password": {"env": "X9"}}
    assert redact(options) == options
    assert redact(options, ["TINKER_API_KEY"])["api_key"] == {"env": "[redacted]"}


@pytest.mark.parametrize(
    "value", [{"env": "hunter2 "}, {"env": "lower"}, {"env": "A", "value": "b"}, {"env": 3}, {"file": "A"}]
)
def test_what_only_looks_like_the_name_of_a_variable_goes(value: object) -> None:
    assert redact({"api_key": value}) == {"api_key": "[redacted]"}


def test_a_planted_secret_goes_from_long_text_keys_nested_lists_and_bytes() -> None:
    value = {
        "text": "x" * 5000 + PLANTED + "y" * 5000,
        f"key-{PLANTED}": 1,
        "nested": [[({"deep": PLANTED},)], {PLANTED}],
        "url": f"https://host/{PLANTED}",
        "bytes": PLANTED.encode(),
        "number": 3,
        "none": None,
    }
    out = redact(value, [PLANTED])
    assert PLANTED not in repr(out)
    assert out["text"] == "x" * 5000 + REDACTED + "y" * 5000
    assert out[f"key-{REDACTED}"] == 1
    assert out["nested"] == [[({"deep": REDACTED},)], {REDACTED}]
    assert out["bytes"] == REDACTED.encode()
    assert (out["number"], out["none"]) == (3, None)
    assert isinstance(value["bytes"], bytes)
    assert value["bytes"] == PLANTED.encode()


def test_a_planted_secret_goes_in_its_json_and_url_spellings_too() -> None:
    from urllib.parse import quote, quote_plus

    for spelled in (json.dumps({"a": PLANTED}), quote(PLANTED, safe=""), quote_plus(PLANTED)):
        out = redact(f"<{spelled}>", [PLANTED])
        assert REDACTED in out
        assert "pl4nted" not in out


def test_the_longest_of_overlapping_secrets_goes_first() -> None:
    assert redact("abcdef abc", ["abc", "abcdef"]) == f"{REDACTED} {REDACTED}"


def test_keys_that_become_equal_are_kept_apart() -> None:
    out = redact({"a-one": 1, "a-two": 2}, ["a-one", "a-two"])
    assert out == {REDACTED: 1, f"{REDACTED} 2": 2}


def test_an_empty_secret_is_ignored() -> None:
    assert redact("abc", [""]) == "abc"


def test_a_redactor_does_not_show_its_secrets() -> None:
    redactor = Redactor(secrets=frozenset({PLANTED}))
    assert repr(redactor) == "Redactor(1 secrets)"
    assert redactor(f"a {PLANTED}") == redactor.text(f"a {PLANTED}") == f"a {REDACTED}"


def test_secrets_of_an_environment_are_the_long_values_of_variables_named_like_secrets() -> None:
    environment = {"HF_TOKEN": "abcdef", "HOME": "/home/ann", "API_KEY": "x", "DB_PASSWORD": "longenough"}
    assert secrets_in(environment) == {"abcdef", "longenough"}


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abcdef :=/@-", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef_", max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(NESTED, st.text("QZX%+\\\"'é{}", min_size=6, max_size=20))
def test_no_planted_secret_survives_anywhere(value: object, secret: str) -> None:
    planted = {"a": [value, secret], "b": {f"<{secret}>": [f"{secret}{secret}", f"x {secret} y"]}, "c": value}
    out = redact(planted, [secret])
    texts = [out["a"][1], *out["b"], *next(iter(out["b"].values()))]
    assert texts == [REDACTED, f"<{REDACTED}>", f"{REDACTED}{REDACTED}", f"x {REDACTED} y"]
    assert out["c"] == out["a"][0] == redact(value)


HOSTILE = [
    "a-",
    "key",
    "api_",
    "a_",
    "sk-",
    "://",
    "eyJ",
    "eyJ-",
    "eyJaaaaaaaaa.",
    "Bearer ",
    "token ",
    "token = ",
]
HOSTILE += [
    "authorization: ",
    "-----BEGIN PRIVATE KEY-----",
    "hf_",
    "x@",
    "://a:",
    'token"',
    "password :",
    "AKIA",
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", HOSTILE)
def test_the_time_grows_no_faster_than_the_text(piece: str) -> None:
    """Each would take minutes with a pattern that tries every start against every end."""
    assert redact(piece * (200_000 // len(piece)) + "token") != ""


@given(NESTED)
def test_redacting_twice_is_redacting_once(value: object) -> None:
    once = redact(value)
    assert redact(once) == once
