"""Field mappings: every schema, its detection, and what is dropped and why."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_datasets import (
    FieldMapping,
    LocalDatasetStore,
    MemoryDataset,
    detect_schema,
    parse_human_assistant,
)
from crucible_datasets.mapping import SCHEMAS, Unfit
from crucible_ir import ConfigError, DataError, DatasetRef, DatasetSnapshot


def load(rows: list[dict[str, Any]], **mapping: Any) -> DatasetSnapshot:
    store = LocalDatasetStore(memory=[MemoryDataset("rows", rows)])
    return store.load(DatasetRef(id="rows", source="memory", mapping=mapping or {"schema": "auto"}))


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


CHATS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("messages", {"messages": [user("a"), assistant("b")]}, [user("a"), assistant("b")]),
    (
        "messages",
        {"prompt": "a", "prompt_id": "0", "messages": [user("a"), assistant("b")], "category": "Chat"},
        [user("a"), assistant("b")],
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
        [{"role": "system", "content": "s"}, user("a"), assistant("b")],
    ),
    ("prompt_completion", {"prompt": "a", "completion": "b"}, [user("a"), assistant("b")]),
    (
        "prompt_completion",
        {"prompt": "a", "response": "b", "system_prompt": " "},
        [user("a"), assistant("b")],
    ),
    (
        "prompt_completion",
        {"prompt": [user("a")], "completion": [assistant("b")]},
        [user("a"), assistant("b")],
    ),
    ("instruction", {"instruction": "a", "input": "", "output": "b"}, [user("a"), assistant("b")]),
    ("instruction", {"instruction": "a", "input": "i", "output": "b"}, [user("a\n\ni"), assistant("b")]),
    ("instruction", {"instruction": "a", "context": "i", "response": "b"}, [user("a\n\ni"), assistant("b")]),
    ("question_answer", {"question": "a", "answer": "b"}, [user("a"), assistant("b")]),
    ("question_answer", {"problem": "a", "solution": "b", "level": 3}, [user("a"), assistant("b")]),
]


@pytest.mark.parametrize(("schema", "row", "messages"), CHATS)
def test_a_chat_schema_is_found_and_gives_messages(
    schema: str, row: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    assert detect_schema([row]).schema == schema
    snapshot = load([row])
    assert list(snapshot.rows) == [{"messages": messages}]
    assert snapshot.ref.mapping["schema"] == schema


HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: Human: or not?\n\nAssistant:"
PREFERENCES: list[tuple[str, dict[str, Any]]] = [
    ("preference", {"prompt": "p", "chosen": "good", "rejected": "bad"}),
    ("preference", {"prompt": [user("p")], "chosen": [assistant("good")], "rejected": [assistant("bad")]}),
    (
        "preference",
        {
            "prompt": "p",
            "prompt_id": "1",
            "chosen": [user("p"), assistant("good")],
            "rejected": [user("p"), assistant("bad")],
            "messages": [user("p"), assistant("good")],
        },
    ),
    (
        "preference",
        {
            "conversations": [{"from": "human", "value": "p"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ),
    (
        "preference_conversations",
        {"chosen": [user("p"), assistant("good")], "rejected": [user("p"), assistant("bad")]},
    ),
    (
        "preference_conversations",
        {
            "chosen_messages": [user("p"), assistant("good")],
            "rejected_messages": [user("p"), assistant("bad")],
        },
    ),
    (
        "preference_conversations",
        {"chosen": "\n\nHuman: p\n\nAssistant: good", "rejected": "\n\nHuman: p\n\nAssistant: bad"},
    ),
]


@pytest.mark.parametrize(("schema", "row"), PREFERENCES)
def test_a_preference_schema_is_found_and_gives_prompt_chosen_rejected(
    schema: str, row: dict[str, Any]
) -> None:
    assert detect_schema([row]).schema == schema
    assert list(load([row]).rows) == [
        {"prompt": [user("p")], "chosen": [assistant("good")], "rejected": [assistant("bad")]}
    ]


def test_a_system_prompt_goes_before_the_preference_prompt_once() -> None:
    row = {"system": "s", "prompt": "p", "chosen": [user("p"), assistant("a")], "rejected": "b"}
    (found,) = load([row]).rows
    assert found["prompt"] == [{"role": "system", "content": "s"}, user("p")]
    assert found["chosen"] == [assistant("a")]
    already = {"messages": [{"role": "system", "content": "t"}, user("a"), assistant("b")], "system": "s"}
    assert load([already]).rows[0]["messages"][0]["content"] == "t"


def test_turns_of_human_and_assistant_begin_after_a_blank_line() -> None:
    text = "Human: a\n\nAssistant: Human: is a word\nAssistant: too\n\n b \n\nHuman:\n\nAssistant: c\n"
    assert parse_human_assistant(text) == [
        user("a"), assistant("Human: is a word\nAssistant: too\n\n b"), user(""), assistant("c"),
    ]  # fmt: skip
    with pytest.raises(Unfit, match="does not begin with 'Human:'"):
        parse_human_assistant("hello\n\nHuman: a")


spoken = (
    st.text(alphabet="ab :\n", min_size=1).map(str.strip).filter(lambda text: text and "\n\n" not in text)
)


@given(turns=st.lists(spoken, min_size=1, max_size=6))
def test_what_is_written_as_human_and_assistant_turns_is_read_back(turns: list[str]) -> None:
    speakers = ("Human", "Assistant")
    text = "".join(f"\n\n{speakers[n % 2]}: {said}" for n, said in enumerate(turns))
    expected = [(user, assistant)[n % 2](said) for n, said in enumerate(turns)]
    assert parse_human_assistant(text) == expected


DROPS: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "the conversation is missing"),
    ({"messages": []}, "the conversation is empty"),
    ({"messages": "a"}, "the conversation is not a list"),
    ({"messages": ["a"]}, "a message is not an object"),
    ({"messages": [{"content": "a"}]}, "a message has no role"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "unknown role 'wizard'"),
    ({"messages": [{"role": "user"}]}, "a message has no content"),
    ({"messages": [{"role": "user", "content": 7}]}, "a message's content is neither text nor parts"),
    ({"messages": [user("a")]}, "no assistant message"),
    ({"messages": [user("a"), assistant(" ")]}, "every assistant message is empty"),
    ({"conversations": [{"from": "function_call", "value": "{}"}]}, "a function_call is not JSON with a name"),
    ({"prompt": None, "completion": "b"}, "prompt is missing"),
    ({"prompt": "a", "completion": " \n"}, "completion is empty"),
    ({"prompt": "a", "completion": 7}, "completion is neither text nor messages"),
    ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
    ({"prompt": "p", "chosen": [user("p")], "rejected": "a"}, "chosen adds nothing to the prompt"),
    ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "chosen and rejected have no prompt in common"),
    (
        {"chosen": [user("p"), user("q")], "rejected": [user("p"), assistant("b")]},
        "chosen and rejected part at a message that is not the assistant's",
    ),
    (
        {"chosen": HH + " a", "rejected": HH.replace("hello", "ho") + " b"},
        "chosen and rejected part before the last turn",
    ),
    ({"chosen": "a", "rejected": "b"}, "the text does not begin with 'Human:' or 'Assistant:'"),
    ({"chosen": None, "rejected": HH}, "chosen is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), DROPS, ids=[reason for _, reason in DROPS])
def test_a_row_that_does_not_fit_is_dropped_with_its_reason(row: dict[str, Any], reason: str) -> None:
    schema, fields = next(
        (schema.name, {field: field for field in row})
        for schema in SCHEMAS.values()
        if schema.required == set(row)
    )
    good = {
        "messages": {"messages": [user("a"), assistant("b")]},
        "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "prompt_completion": {"prompt": "a", "completion": "b"},
        "preference": {"prompt": "p", "chosen": "a", "rejected": "b"},
        "preference_conversations": {"chosen": HH + " a", "rejected": HH + " b"},
    }[schema]
    snapshot = load([good, row, good, row], schema=schema, fields=fields)
    assert len(snapshot.rows) == 2
    (drop,) = snapshot.drops
    assert (drop.reason, drop.count, drop.first) == (reason, 2, "rows[train], row 2")
    with pytest.raises(DataError, match=r"rows\[train\], row 2: .*; repair the row"):
        load([good, row], schema=schema, fields=fields, strict=True)


def test_drops_come_most_frequent_first() -> None:
    rows = [{"messages": [user("a"), assistant("b")]}, {"messages": []}, {"messages": 1}, {"messages": []}]
    assert [(drop.reason, drop.count) for drop in load(rows).drops] == [
        ("the conversation is empty", 2),
        ("the conversation is not a list", 1),
    ]


def test_tool_calls_and_extra_keys_of_messages_are_carried() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        user("a"),
        {"role": "assistant", "content": None, "tool_calls": [call], "name": None},
        {"role": "Tool", "content": "1", "tool_call_id": "x"},
        assistant([{"type": "text", "text": "b"}]),
    ]
    (row,) = load([{"messages": messages}]).rows
    assert row["messages"] == [
        user("a"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "x"},
        assistant([{"type": "text", "text": "b"}]),
    ]


def test_function_calls_of_sharegpt_become_tool_calls() -> None:
    said = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": json.dumps({"name": "look", "arguments": {"city": "Köln"}})},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ]
    (row,) = load([{"conversations": said}]).rows
    assert [m["role"] for m in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "look", "arguments": '{"city": "Köln"}'}}
    ]
    said[1]["value"] = json.dumps({"name": "look", "arguments": '{"city": 1}'})
    assert load([{"conversations": said}]).rows[0]["messages"][1]["tool_calls"][0]["function"][
        "arguments"
    ] == ('{"city": 1}')


def test_detection_says_which_column_is_what_and_what_is_left_aside() -> None:
    found = detect_schema([{"question": "a", "answer": "b", "level": 1, "note": None}])
    assert found.explanation == (
        "question_answer: question = 'question', answer = 'answer'; left aside: 'level'"
    )
    assert dict(found.fields) == {"question": "question", "answer": "answer"}


def test_columns_are_told_from_the_first_hundred_rows() -> None:
    rows = [{"prompt": "a"}] * 50 + [{"prompt": "a", "completion": "b"}]
    assert len(load(rows).rows) == 1
    with pytest.raises(DataError, match="no known schema has the columns 'prompt'; say which column is what"):
        load([{"prompt": "a"}] * 100 + [{"prompt": "a", "completion": "b"}])


def test_columns_may_be_named_and_reached_into() -> None:
    row = {"q": {"text": "a"}, "a.b": "c", "id": 7, "more": "x"}
    snapshot = load([row], fields={"prompt": "q.text", "completion": "a.b"}, keep=["id", "absent"])
    assert list(snapshot.rows) == [{"messages": [user("a"), assistant("c")], "id": 7, "absent": None}]
    everything = load([row], fields={"prompt": "q.text", "completion": "a.b"}, keep=True)
    assert everything.rows[0]["more"] == "x"
    assert everything.rows[0]["id"] == 7
    assert "q" not in everything.rows[0]
    assert load(
        [{"q": 1, "c": "d"}, {"q": {"text": "a"}, "c": "d"}], fields={"prompt": "q.text", "completion": "c"}
    ).drops


def test_a_schema_may_be_named_with_some_of_its_columns() -> None:
    row = {"ask": "a", "answer": "b", "system": "s"}
    snapshot = load([row], schema="question_answer", fields={"question": "ask"})
    assert [m["role"] for m in snapshot.rows[0]["messages"]] == ["system", "user", "assistant"]
    assert snapshot.ref.mapping == {
        "schema": "question_answer",
        "fields": {"question": "ask", "answer": "answer", "system": "system"},
    }


def test_a_column_that_hides_a_result_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mapping\.keep: the column 'messages' would hide"):
        load([{"prompt": "a", "completion": "b", "messages": 1}], schema="prompt_completion", keep=True)


@pytest.mark.parametrize(
    ("mapping", "problems"),
    [
        ({"shema": "auto"}, ["mapping.shema: unknown key 'shema'; did you mean 'schema'?"]),
        ({"zzz": 1}, ["mapping.zzz: unknown key 'zzz'; valid: schema, fields, keep, strict"]),
        ({"schema": "mesages"}, ["mapping.schema: unknown schema 'mesages'; did you mean 'messages'?"]),
        ({"schema": 7}, ["mapping.schema: unknown schema 7; valid: auto, raw, preference"]),
        (
            {"schema": "messages", "fields": {"mesages": "x"}},
            ["mapping.fields.mesages: schema 'messages' has no field 'mesages'; did you mean 'messages'?"],
        ),
        ({"schema": "messages", "fields": {"q": "x"}}, ["valid: messages, system"]),
        ({"fields": {"q": "x"}}, ["mapping.fields: no schema has exactly the fields q; name the schema: preference"]),
        ({"schema": "raw", "fields": {"q": "x"}}, ["mapping.fields: schema 'raw' has no fields"]),
        ({"fields": ["q"]}, ["mapping.fields: ['q'] is not a table of field = column"]),
        ({"schema": "auto", "keep": 3}, ["mapping.keep: 3 is neither true, false nor a list of columns"]),
        ({"strict": "no", "zz": 1}, ["mapping.strict: 'no' is neither true nor false", "mapping.zz: unknown key"]),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_refused_with_every_problem(mapping: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        FieldMapping.parse(mapping)
    for problem in problems:
        assert problem in str(caught.value)
    assert len(caught.value.problems) == len(problems)


def test_columns_that_are_not_there_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load([{"question": "a", "reply": "b"}], schema="question_answer", fields={"question": "qestion"})
    text = str(caught.value)
    assert "mapping.fields.question: the data have no column 'qestion'; did you mean 'question'?" in text
    assert "mapping.fields.answer: schema 'question_answer' needs it, and no column has a usual name" in text
    with pytest.raises(ConfigError, match="no column 'zz'; there are: question, reply"):
        load([{"question": "a", "reply": "b"}], schema="question_answer", fields={"answer": "zz"})


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"schema": "auto"},
        {"schema": "messages", "keep": ["a", "b"], "strict": True},
        {"fields": {"prompt": "x", "completion": "y"}, "keep": True},
        {"schema": "auto", "fields": {"prompt": "x", "completion": "y"}},
    ],
)
def test_a_mapping_reads_back_what_it_writes(mapping: dict[str, Any]) -> None:
    parsed = FieldMapping.parse(mapping)
    assert FieldMapping.parse(parsed.as_dict()) == parsed


def test_a_fuzzy_row_is_turned_or_dropped_and_never_fails() -> None:
    leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
    value = st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3)
        ),
        max_leaves=6,
    )

    @given(
        rows=st.lists(
            st.fixed_dictionaries({"prompt": value, "chosen": value, "rejected": value}), min_size=1
        )
    )
    def turned_or_dropped(rows: list[dict[str, Any]]) -> None:
        good = {"prompt": "p", "chosen": "a", "rejected": "b"}
        spoken = {"chosen": HH + " a", "rejected": HH + " b"}
        for first, names in ((good, ("prompt", "chosen", "rejected")), (spoken, ("chosen", "rejected"))):
            given_rows = [first, *({name: row[name] for name in names} for row in rows)]
            snapshot = load(given_rows, fields={name: name for name in names})
            assert len(snapshot.rows) + sum(drop.count for drop in snapshot.drops) == len(given_rows)

    turned_or_dropped()
