"""Splits by seeded shares and by files: groups stay together, mistakes are located."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robustseg.data._splits import SplitRule, read_split_file, seeded_splits
from keras_robustseg.errors import DataError


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 30).map(str), min_size=3, max_size=80),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 9),
)
def test_groups_never_cross_and_shares_are_met(groups, val, test, seed):
    """Every group is in one split; the numbers of groups are the rounded shares, at least 1."""
    splits = seeded_splits(groups, val=val, test=test, seed=seed)
    found = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        found[group].add(split)
    assert all(len(names) == 1 for names in found.values())
    number = len(found)
    for name, share in (("val", val), ("test", test)):
        expected = round(share * number)
        if number >= 3 and share > 0:
            expected = max(expected, 1)
        assert sum(names == {name} for names in found.values()) == expected


def test_order_does_not_matter():
    """The split of a group depends on the set of groups and the seed, not on their order."""
    groups = [f"p{i}" for i in range(40)]
    splits = dict(zip(groups, seeded_splits(groups, val=0.2, test=0.2, seed=3), strict=True))
    back = groups[::-1]
    again = dict(zip(back, seeded_splits(back, val=0.2, test=0.2, seed=3), strict=True))
    assert splits == again
    assert splits != dict(
        zip(groups, seeded_splits(groups, val=0.2, test=0.2, seed=4), strict=True)
    )


def test_files_of_both_kinds_and_what_they_leave_out(tmp_path):
    """CSV and both JSON forms are read alike."""
    table = {"a": "train", "b": "val", "x": "test"}
    csv = tmp_path / "s.csv"
    csv.write_text("id,split\n" + "".join(f"{k},{v}\n" for k, v in table.items()))
    flat, lists = tmp_path / "flat.json", tmp_path / "lists.json"
    flat.write_text(json.dumps(table))
    lists.write_text(json.dumps({v: [k] for k, v in table.items()}))
    for path in (csv, flat, lists):
        assert read_split_file(path) == table
    splits, problems = SplitRule(csv).assign(["a", "b", "c"])
    assert splits == {"a": "train", "b": "val"}
    assert [(p.file, p.kind, p.warning) for p in problems] == [
        ("c", "not_in_split", True),
        ("x", "not_in_split", False),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", "name,split\na,train\n", "line 1: .*expected a header with id,split"),
        ("s.csv", "id,split\na,train\nb,tset\n", "line 3: got split 'tset'"),
        ("s.csv", "id,split\na,train\na,val\n", "line 3: 'a' is in 'train' and in 'val'"),
        ("s.json", "[1]", "got list, expected"),
        ("s.json", "{", "is not JSON"),
        ("s.json", '{"a": "train", "b": ["c"]}', "mixture"),
    ],
)
def test_wrong_files(tmp_path, name, content, message):
    """The error names the file and the line."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_split_file(tmp_path / name)


def test_wrong_fields(tmp_path):
    """Shares and the expression are checked, and a missing file is named."""
    for fields, message in (
        ({"val": 1.0}, "val: got 1.0"),
        ({"val": 0.6, "test": 0.5}, r"val \+ test"),
        ({"group": "("}, "no regular expression"),
    ):
        with pytest.raises(DataError, match=message):
            SplitRule(**fields)
    with pytest.raises(DataError, match=r"none\.csv"):
        read_split_file(tmp_path / "none.csv")
