import gzip
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import TrainingError
from training.table import TicketTable, read_table, thinned

SOUND: list[dict[str, Any]] = [
    {"id": "1", "subject": "Site down", "body": "error 500", "kind": "incident", "department": "hosting"},
    {"id": "2", "subject": "Panne", "body": "plus de réseau", "kind": "incident", "department": "network"},
    {"id": "3", "subject": "Which plan?", "body": "for a shop", "kind": "advisory", "department": "hosting"},
    {"id": "4", "subject": "Frage", "body": "wie geht ein VPN?", "kind": "advisory", "department": "network"},
]


def ticket(body: str, kind: Any = "incident", department: Any = "hosting", **more: Any) -> dict[str, Any]:
    return {"subject": "", "body": body, "kind": kind, "department": department, **more}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write records as a table of JSON Lines and return its name."""

    def put(records: list[dict[str, Any]], name: str = "tickets.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return put


def refusal(*sources: str, **options: Any) -> str:
    """The one line that says why the table is refused."""
    with pytest.raises(TrainingError) as caught:
        read_table(sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def found(table: TicketTable) -> list[tuple[int, str]]:
    return [(problem.row, problem.problem) for problem in table.problems]


def test_a_sound_table_is_taken_whole(write: Any) -> None:
    table = read_table([write(SOUND)])
    assert table.texts == ["Site down\nerror 500", "Panne\nplus de réseau", "Which plan?\nfor a shop", "Frage\nwie geht ein VPN?"]
    assert table.labels == {
        "kind": ["incident", "incident", "advisory", "advisory"],
        "department": ["hosting", "network", "hosting", "network"],
    }
    assert table.languages == ["", "", "", ""]
    assert table.text_columns == ("subject", "body")
    assert table.ids == ["1", "2", "3", "4"]
    assert table.problems == []
    assert len(table) == 4


@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl.gz", "parquet", "sql"])
def test_every_form_gives_the_same_table(write: Any, tmp_path: Path, form: str) -> None:
    records = [record | {"language": "fr", "channel": "web", "created_at": f"2026-11-0{i}T10:00:00Z"} for i, record in enumerate(SOUND, 1)]
    expected = read_table([write(records)])
    frame, path = pd.DataFrame(records), tmp_path / f"other.{form}"
    database = f"sqlite:///{tmp_path / 'tickets.db'}"
    if form == "parquet":
        frame.to_parquet(path)
    elif form == "sql":
        connection = sqlite3.connect(tmp_path / "tickets.db")
        frame.to_sql("tickets", connection, index=False)
        connection.close()
        path.write_text("SELECT * FROM tickets ORDER BY id", encoding="utf-8")
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress((tmp_path / "tickets.jsonl").read_bytes()))
    else:
        frame.to_csv(path, index=False)
    assert read_table([str(path)], database=database) == expected


def test_several_files_are_one_table(write: Any) -> None:
    parts = [write(SOUND[:2], "a.jsonl"), write([*SOUND[2:], ticket("no label", "", "")], "b.jsonl")]
    table = read_table(parts)
    assert table.ids == ["1", "2", "3", "4"]
    assert [(problem.source, problem.row) for problem in table.problems] == [(parts[1], 3)]


def test_labels_are_trimmed_and_whole_numbers_stay_whole(write: Any) -> None:
    records = [ticket(f"text {i}", kind=f" {'ab'[i % 2]}\t", department=i % 2 + 1) for i in range(4)]
    # A missing value turns the column into floats: 1 must not become "1.0".
    table = read_table([write([*records, ticket("text 5", kind="a", department=None)])])
    assert table.label_names("kind") == ["a", "b"]
    assert table.label_names("department") == ["1", "2"]
    assert table.labels["department"] == ["1", "2", "1", "2", ""]


def test_codes_are_places_in_the_names_given(write: Any) -> None:
    table = read_table([write([*SOUND, ticket("only a kind", department=None)])])
    assert table.codes("department", ["network", "hosting"]).tolist() == [1, 0, 1, 0, -1]
    assert table.codes("department", ["hosting"]).tolist() == [0, -1, 0, -1, -1]


def test_what_cannot_be_used_is_dropped_by_row_and_said(write: Any) -> None:
    table = read_table(
        [
            write(
                [
                    ticket("  \n", kind="advisory"),
                    *SOUND,
                    ticket("no label at all", "", None),
                    ticket("again", "incident"),
                    ticket("AGAIN", "incident"),  # the case makes no other ticket
                    ticket("twice", "incident"),
                    ticket("twice", "advisory"),
                    ticket("lonely", department="sales"),
                ]
            )
        ]
    )
    assert found(table) == [
        (1, "no text; dropped"),
        (6, "no label; dropped"),
        (8, "same text and labels as an earlier ticket; dropped"),
        (9, "same text as another ticket, other labels; dropped"),
        (10, "same text as another ticket, other labels; dropped"),
        (11, "its label in department is seen only once; dropped"),
    ]
    assert table.ids == ["1", "2", "3", "4", ""]


def test_a_label_that_is_left_alone_by_another_drop_goes_too(write: Any) -> None:
    # `question` is seen twice, but one of the two goes because its department is seen once.
    records = [*SOUND, ticket("one", "question", "sales"), ticket("two", "question", "hosting")]
    assert Counter(read_table([write(records)]).labels["kind"]) == {"incident": 2, "advisory": 2}


_BODIES = ["", "A B", *(f"{first} {second}" for first in "abcdef" for second in "abcdef")]  # "A B" is "a b" once more
_RECORDS = st.lists(
    st.fixed_dictionaries({"body": st.sampled_from(_BODIES), "kind": st.sampled_from(["", "x", "y", "z"]),
                           "department": st.sampled_from(["", "p", "q", "r", "s"])}),
    max_size=14,
)  # fmt: skip


@given(records=_RECORDS)
@settings(max_examples=100, deadline=None)
def test_what_is_left_can_be_learned_from(records: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / "tickets.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    try:
        table = read_table([str(path)])
    except TrainingError:
        return
    assert len(table) + len(table.problems) == len(records)
    assert all(table.texts)
    assert len({text.casefold() for text in table.texts}) == len(table)
    assert all(any(labels) for labels in zip(*table.labels.values(), strict=True))
    for names in table.labels.values():
        assert 1 not in Counter(name for name in names if name).values()


def test_strict_refuses_what_is_dropped_otherwise(write: Any) -> None:
    source = write([*SOUND, ticket("no label", "", ""), ticket("no label either", "", "")])
    message = refusal(source, strict=True)
    assert message.startswith("--strict: 2 problems")
    assert f"{source}, ticket 5: no label" in message
    assert len(read_table([write(SOUND)], strict=True)) == 4


def test_a_test_table_is_judged_as_it_is(write: Any) -> None:
    records = [ticket("twice", "incident"), ticket("twice", "incident"), ticket("lonely", "advisory")]
    assert len(read_table([write(records)], for_training=False)) == 3
    assert len(read_table([write(records[:1])], for_training=False)) == 1


@pytest.mark.parametrize(
    ("column", "wrong", "why"),
    [
        ("language", "klingon!", "not a BCP 47 language tag"),
        ("channel", "pigeon", "not one of web, email, phone, chat, api"),
        ("created_at", "yesterday", "not an ISO 8601 moment"),
    ],
)
def test_a_wrong_optional_value_is_left_out_and_never_shown(write: Any, column: str, wrong: str, why: str) -> None:
    right = {"language": "pt-BR", "channel": "web", "created_at": "2026-11-22T10:00:00+01:00"}[column]
    records = [record | {column: right} for record in SOUND]
    records[2][column] = wrong
    records[3][column] = ""
    table = read_table([write(records)])
    assert found(table) == [(3, f"{column}: {why}; the value is left out")]
    assert len(table) == 4
    assert table.languages == (["pt", "pt", "", ""] if column == "language" else [""] * 4)
    assert "--strict" in refusal(write(records), strict=True)


def test_the_text_may_be_in_other_columns(write: Any) -> None:
    records = [{"title": record["subject"], "description": record["body"], "queue": record["department"]} for record in SOUND]
    two = read_table([write(records)], text=("title", "description"), targets={"department": "queue"})
    assert two.texts == read_table([write(SOUND, "sound.jsonl")]).texts
    assert two.text_columns == ("title", "description")
    assert list(two.labels) == ["department"]
    one = read_table([write(records)], text=("description",), targets={"department": "queue"})
    assert one.texts[0] == "error 500"
    assert one.text_columns == ("description",)


def test_without_a_subject_the_body_is_enough(write: Any) -> None:
    records = [{"body": record["body"], "kind": record["kind"]} for record in SOUND]
    table = read_table([write(records)])
    assert table.text_columns == ("body",)
    assert list(table.labels) == ["kind"]


@pytest.mark.parametrize("name", ["_row", "_source", "_text", "_kind"])
def test_any_column_name_of_a_foreign_table_is_harmless(write: Any, name: str) -> None:
    source = write([record | {name: "x"} for record in [*SOUND, ticket("no label", "", "")]])
    table = read_table([source])
    assert table.texts[0] == "Site down\nerror 500"
    assert [(problem.source, problem.row) for problem in table.problems] == [(source, 5)]


REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[str]]] = {
    "no rows": ([], {}, ["no rows"]),
    "no text column": ([{"message": "hi", "kind": "x"}], {}, ["no text column", "expected subject and body", "found message, kind", "--text"]),
    "no such text column": (SOUND, {"text": ["title"]}, ["no text column title", "found id, subject, body", "--text"]),
    "three text columns": (SOUND, {"text": ["id", "subject", "body"]}, ["--text takes one column, or two"]),
    "no column of labels": ([{"body": "hi", "queue": "x"}], {}, ["no column of labels", "expected kind or department", "found body, queue", "--target"]),
    "no such column of labels": (SOUND, {"targets": {"kind": "type"}}, ["no column 'type'", "found id, subject, body", "--target"]),
    "one label only": ([ticket(f"text {i}") for i in range(4)], {}, ["fewer than two labels in every target", "kind: 1", "department: 1"]),
    "labels seen once": ([ticket(f"text {i}", f"k{i}", f"d{i}") for i in range(4)], {}, ["no ticket is left", "4 x its label in kind is seen only once"]),
    "contradicting duplicates": ([ticket("same", "incident"), ticket("same", "advisory")], {}, ["no ticket is left", "2 x same text as another ticket"]),
    "no labels": ([ticket("a", "", ""), ticket("b", None, None)], {}, ["no ticket is left", "2 x no label"]),
    "no texts": ([ticket(""), ticket(" \u200b", "advisory")], {}, ["no ticket is left", "2 x no text"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_refused_with_the_file_and_the_cure(write: Any, case: str) -> None:
    records, options, words = REFUSED[case]
    message = refusal(write(records), **options)
    assert [word for word in words if word not in message] == []
    assert "tickets.jsonl" in message


def test_a_row_that_cannot_be_read_refuses_the_table(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(json.dumps(SOUND[0]).encode() + b'\n{"id": "2", "subj')
    assert "t.jsonl, line 2: not a JSON object" in refusal(str(tmp_path / "t.jsonl"))
    (tmp_path / "t.csv").write_text("subject,body,kind\na,b,x\nc,d\n", encoding="utf-8")
    assert "t.csv, row 3: 2 fields, the header has 3" in refusal(str(tmp_path / "t.csv"))


def test_a_lone_name_is_not_taken_for_many() -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        read_table("tickets.csv")


def test_the_shipped_tickets_have_no_problems(table: TicketTable) -> None:
    assert table.problems == []
    assert min(table.languages.count(code) for code in set(table.languages)) >= 64
    assert set(table.languages) == {"fr", "en", "de", "es", "pt", "it", "pl"}


def test_of_a_large_table_as_many_are_drawn_as_may_be_and_rare_labels_are_kept_whole(tmp_path: Path) -> None:
    common, rare = [f"the server number {i} does not answer" for i in range(1500)], [f"invoice {i} please" for i in range(9)]
    lines = [{"body": text, "kind": "incident", "language": "en"} for text in common] + [{"body": text, "kind": "advisory"} for text in rare]
    file = tmp_path / "table.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = read_table([str(file)], targets={"kind": "kind"})
    some = thinned(table, 500, seed=1)
    assert len(some) == 500
    assert some.labels["kind"].count("advisory") == len(rare)
    whole = dict(zip(table.texts, zip(table.labels["kind"], table.languages, strict=True), strict=True))
    assert all(whole[text] == (kind, code) for text, kind, code in zip(some.texts, some.labels["kind"], some.languages, strict=True))
    assert some == thinned(table, 500, seed=1) != thinned(table, 500, seed=2)
    assert thinned(table, len(table), seed=1) is table
