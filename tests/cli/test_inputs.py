"""What `paymaster submit` reads, and what it says of a file that cannot be used."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cli.inputs import InputError, artifacts_of, generate_fields, parse_fields, records, texts_of

POSTING = {"title": "Baker", "company": "Bread & Co", "description": "Bakes bread."}
FIELDS = {"job_description": "Bakes bread.", "company_name": "Bread & Co", "role_title": "Baker"}


def written(folder: Path, name: str, content: Any) -> str:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(file)


def read(*paths: str) -> list[tuple[str, Any]]:
    return list(records(list(paths)))


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> list[tuple[str, Any]]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return read("-")


@pytest.mark.parametrize("suffix", ["txt", "md", "eml"])
def test_a_text_file_is_one_text_as_it_is(tmp_path: Path, suffix: str) -> None:
    text = "# Bäcker\n\n{not JSON}\n"
    path = written(tmp_path, f"p.{suffix}", text)
    assert read(path) == [(path, text)]


@pytest.mark.parametrize("content", [POSTING, [POSTING, POSTING], "text", [], 5])
def test_a_json_file_is_one_value(tmp_path: Path, content: Any) -> None:
    path = written(tmp_path, "p.json", json.dumps(content))
    assert read(path) == [(path, content)]


def test_a_jsonl_file_is_a_value_per_line_and_says_which(tmp_path: Path) -> None:
    path = written(tmp_path, "p.jsonl", '{"a": 1}\n\n  \n["b"]\r\n"c"')
    assert read(path) == [(f"{path}:1", {"a": 1}), (f"{path}:4", ["b"]), (f"{path}:5", "c")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_a_line_of_jsonl_ends_at_a_newline_only(tmp_path: Path, separator: str) -> None:
    lines = [{"text": f"one{separator}two"}, {"text": "three"}]
    path = written(tmp_path, "p.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert read(path) == [(f"{path}:1", lines[0]), (f"{path}:2", lines[1])]


def test_a_folder_is_its_files_in_order_with_those_below(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.json", "z.jsonl", "ignored.pdf", "sub/deep/d.txt"):
        written(tmp_path, name, '"x"')
    (tmp_path / "folder.txt").mkdir()
    found = [str(Path(where.partition(":")[0]).relative_to(tmp_path)) for where, _ in read(str(tmp_path))]
    assert found == ["a.md", "b.txt", "sub/c.json", "sub/deep/d.txt", "z.jsonl"]


def test_a_folder_without_a_usable_file_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "cv.pdf", "x")
    with pytest.raises(InputError, match=r"has no \.txt, \.md, \.json, \.jsonl file") as refused:
        read(str(tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_several_paths_are_read_in_their_order(tmp_path: Path) -> None:
    second, first = written(tmp_path, "2.txt", "two"), written(tmp_path, "1.txt", "one")
    assert [content for _, content in read(second, first, second)] == ["two", "one", "two"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A baker.\n", [("standard input", "A baker.\n")]),
        ('{"a": 1}', [("standard input", {"a": 1})]),
        ('\n [1,\n 2]\n', [("standard input", [1, 2])]),
        ('{"a": 1}\n{"a": 2}\n', [("standard input:1", {"a": 1}), ("standard input:2", {"a": 2})]),
        ("", [("standard input", "")]),
    ],
)  # fmt: skip
def test_standard_input_is_text_json_or_jsonl(text: str, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stdin(monkeypatch, text) == found


def test_broken_lines_on_standard_input_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^standard input:2: is not valid JSON: "):
        stdin(monkeypatch, '{"a": 1}\n{"a": \n')


def test_broken_json_names_its_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, "p.json", '{\n "a": 1,\n "b": oops\n}')
    with pytest.raises(InputError, match=r"is not valid JSON: .* line 3 ") as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_broken_line_of_jsonl_names_its_file_and_line_after_the_good_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "p.jsonl", '{"a": 1}\n\n{"a": 2\n{"a": 3}\n')
    found = records([path])
    assert next(found) == (f"{path}:1", {"a": 1})
    with pytest.raises(InputError) as refused:
        next(found)
    assert str(refused.value).startswith(f"{path}:3: is not valid JSON: ")


@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_json_that_is_nested_too_deeply_is_refused_like_broken_json(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, "[" * 100_000 + "]" * 100_000)
    with pytest.raises(InputError, match=r"JSON"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.txt: cannot be read: No such file"):
        read(str(tmp_path / "missing.txt"))


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "p.txt", "Bäcker".encode("latin-1"))
    with pytest.raises(InputError, match=r"p\.txt: is not UTF-8 text"):
        read(path)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ("Bakes bread.", {"job_description": "Bakes bread."}),
        (POSTING, FIELDS),
        ({"raw_job_description": "x", "company_name": "c", "role_title": "t"},
         {"job_description": "x", "company_name": "c", "role_title": "t"}),
        ({"text": "x", "company": ""}, {"job_description": "x"}),
        ({"job_description": "first", "description": "second", "text": "third"}, {"job_description": "first"}),
        ({"description": "x", "company": None, "salary": 5}, {"job_description": "x"}),
    ],
)  # fmt: skip
def test_a_posting_may_use_other_products_names(content: Any, fields: dict[str, Any]) -> None:
    assert parse_fields("p.json", content) == fields


@pytest.mark.parametrize("content", [{}, {"title": "Baker"}, {"description": ""}, 5, None, True, ["text"]])
def test_what_is_no_posting_is_refused_with_the_place(content: Any) -> None:
    with pytest.raises(InputError, match=r"^p\.jsonl:7: "):
        parse_fields("p.jsonl:7", content)


def test_a_posting_becomes_a_generate_job() -> None:
    artifacts, wish = [{"a": 1}], {"tone": "creative"}
    rest = {"artifacts": artifacts, "preferences": wish}
    assert generate_fields("p", "Bakes.", artifacts, wish) == {"job_data": {"raw_job_description": "Bakes."}, **rest}
    assert generate_fields("p", POSTING, artifacts, wish) == {
        "job_data": {"raw_job_description": "Bakes bread.", "company_name": "Bread & Co", "role_title": "Baker"},
        **rest,
    }  # fmt: skip


def test_a_parse_result_becomes_a_generate_job_with_all_its_fields() -> None:
    parsed = {"raw_job_description": "Bakes.", "role_title": "Baker", "required_skills": ["dough"], "location": None}
    assert generate_fields("p", parsed, [], {})["job_data"] == parsed


def test_a_whole_generate_job_keeps_its_own_fields() -> None:
    whole = {"job_data": {"raw_job_description": "x"}, "artifacts": [{"own": 1}]}
    found = generate_fields("p", whole, [{"a": 1}], {"tone": "creative"})
    assert found == {**whole, "preferences": {"tone": "creative"}}


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        (["a", ["b", {"text": "c"}], {"texts": ["d", "e"]}], ["a", "b", "c", "d", "e"]),
        ({"texts": ["a", "b"], "title": "t"}, ["a", "b"]),
        (POSTING, ["Bakes bread."]),
        ([], []),
    ],
)
def test_texts_are_found_in_any_shape_and_in_order(content: Any, texts: list[str]) -> None:
    assert texts_of("p", content) == texts


@pytest.mark.parametrize("content", [5, None, [["a"], 5], {"title": "no text"}])
def test_what_holds_no_text_is_refused_with_the_place(content: Any) -> None:
    with pytest.raises(InputError, match=r"^p\.jsonl:7: "):
        texts_of("p.jsonl:7", content)


RESUME = {
    "$schema": "https://example.org/resume.json",
    "basics": {"name": "Ada", "email": "ada@example.org"},
    "work": [{"position": "Baker", "name": "Bread & Co"}, {"position": "Chef", "name": "Inn"}],
    "skills": [{"name": "dough"}],
    "interests": ["chess"],
    "languages": [],
    "meta": {"version": "v1.0.0"},
}


def test_a_json_resume_becomes_one_artifact_per_entry() -> None:
    assert artifacts_of("cv.json", RESUME) == [
        {"section": "basics", "name": "Ada", "email": "ada@example.org"},
        {"section": "work", "position": "Baker", "name": "Bread & Co"},
        {"section": "work", "position": "Chef", "name": "Inn"},
        {"section": "skills", "name": "dough"},
        {"interests": "chess"},
    ]


def test_a_list_of_artifacts_is_taken_as_it_is() -> None:
    assert artifacts_of("a.json", [{"a": 1}, {"b": 2}]) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("content", ["text", 5, None])
def test_what_is_no_list_of_artifacts_is_refused_with_the_place(content: Any) -> None:
    with pytest.raises(InputError, match=r"^a\.json: artifacts are a list of objects or a JSON Resume$"):
        artifacts_of("a.json", content)


def test_a_posting_with_empty_fields_is_a_job_without_them(tmp_path: Path) -> None:
    from cli.submit import Options, _fields

    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"description": "Bakes.", "company_name": "", "title": None, "x": 1}))
    ((_, fields),) = _fields("parse", [str(file)], Options({}, None, {}, None))
    assert fields == {"job_description": "Bakes."}
