"""What is written as TOML reads back as it was."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chemscale.table.errors import StoreError, StudyError
from chemscale.table.toml import dump_toml, read_toml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=5))
def test_nested_values_read_back_as_they_were(data: dict[str, Any]):
    assert tomllib.loads(dump_toml(data)) == data


@given(texts)
def test_any_text_reads_back_as_it_was(text: str):
    assert tomllib.loads(dump_toml({"text": text})) == {"text": text}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_every_digit_and_stays_a_float(number: float):
    back = tomllib.loads(dump_toml({"number": number}))["number"]
    assert isinstance(back, float)
    assert repr(back) == repr(number)


def test_records_in_a_list_become_tables_after_everything_else():
    data = {"forecast": [{"value": 1.5, "runs": ["a"]}, {"value": 2.0, "runs": []}], "name": "x"}
    text = dump_toml(data)
    assert text.index("name") < text.index("[[forecast]]")
    assert tomllib.loads(text) == data


def test_what_is_missing_stays_missing():
    data = {"name": None, "inner": {"items": None, "patience": 0.5}, "rows": [{"a": None, "b": 1}]}
    expected = {"inner": {"patience": 0.5}, "rows": [{"b": 1}]}
    assert tomllib.loads(dump_toml(data)) == expected


def test_what_toml_cannot_hold_is_our_own_mistake():
    with pytest.raises(TypeError, match="cannot write object as TOML"):
        dump_toml({"thing": object()})


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(StoreError, match=r"none.toml: there is no such file"):
        read_toml(tmp_path / "none.toml")


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path):
    (tmp_path / "study.toml").write_text('name = "x"\nnum_train = [1,,2]\n')
    with pytest.raises(StudyError, match=r"not valid TOML: .*line 2"):
        read_toml(tmp_path / "study.toml")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path):
    (tmp_path / "study.toml").write_bytes(b'name = "caf\xe9"\n')
    with pytest.raises(StudyError, match="not valid TOML"):
        read_toml(tmp_path / "study.toml")
