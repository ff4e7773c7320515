"""Manifest, damage and replacement, without TensorFlow."""

import hashlib
import json

import pytest

from keras_robustseg._export_manifest import put_in_place, require_replaceable, write_manifest
from keras_robustseg.errors import ExportError
from keras_robustseg.export import verify_export


def exported(directory, content=b"graph"):
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(content)
    (directory / "variables" / "data").write_bytes(bytes(100))
    write_manifest(directory, {"name": "model"})
    return directory


def test_every_file_is_listed_with_size_and_sum(tmp_path):
    manifest = verify_export(exported(tmp_path / "model"))
    assert manifest["name"] == "model"
    assert manifest["files"] == {
        "saved_model.pb": {"bytes": 5, "sha256": hashlib.sha256(b"graph").hexdigest()},
        "variables/data": {"bytes": 100, "sha256": hashlib.sha256(bytes(100)).hexdigest()},
    }


def test_all_damage_is_named_at_once(tmp_path):
    model = exported(tmp_path / "model")
    (model / "saved_model.pb").write_bytes(b"Graph")
    (model / "variables" / "data").unlink()
    (model / "added.txt").write_text("?")
    with pytest.raises(ExportError) as caught:
        verify_export(model)
    for part in ("saved_model.pb: SHA-256", "variables/data: missing", "added.txt: not in the"):
        assert part in str(caught.value)


def test_a_link_in_place_of_a_file_is_named(tmp_path):
    model = exported(tmp_path / "model")
    (model / "saved_model.pb").rename(tmp_path / "elsewhere")
    (model / "saved_model.pb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match=r"saved_model\.pb: a link"):
        verify_export(model)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "keras_robustseg export", "files": {"a": 1}}']
)
def test_what_is_not_a_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ExportError, match=r"manifest\.json"):
        verify_export(tmp_path)


def test_one_export_takes_the_place_of_another(tmp_path):
    old, new = exported(tmp_path / "model", b"old"), exported(tmp_path / "prepared", b"new")
    require_replaceable(old)
    put_in_place(new, old)
    assert (old / "saved_model.pb").read_bytes() == b"new"
    assert verify_export(old)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_systems_that_cannot_exchange_names_replace_too(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_robustseg._export_manifest._exchange", lambda *_: False)
    old, new = exported(tmp_path / "model", b"old"), exported(tmp_path / "prepared", b"new")
    put_in_place(new, old)
    assert (old / "saved_model.pb").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_not_ours_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    require_replaceable(tmp_path / "thesis")  # empty
    require_replaceable(tmp_path / "new")  # free
    (tmp_path / "thesis" / "chapter.txt").write_text("text")
    (tmp_path / "file").write_text(json.dumps({"format": "keras_robustseg export"}))
    for name in ("thesis", "file"):
        with pytest.raises(ExportError, match="is not an exported model"):
            require_replaceable(tmp_path / name)
