"""Every mistake in a recipe is answered with file, line, field, what was got and expected."""

from __future__ import annotations

import pytest

from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import load_recipe

BASE = """\
name: broken
seed: 0
data:
  source: {kind: lidc}
  readers: random
  noise:
    - kind: reader
      scale: 1.0
    - {kind: dilate, probability: 0, radius: 2}
  noise_splits: [train]
  limit: {train: 8}
pipeline:
  batch_size: 16
  crop: [32, 32]
  augment:
    flip: true
    affine: {rotation: 15}
  cache: memory
model: {kind: unet, width: 8, depth: 3}
method:
  kind: pencil
  flip_margin: 0.2
  warmup: 0.3
training:
  epochs: 2
  optimizer: {kind: adam, learning_rate: 1e-3}
  precision: float32
  jit_compile: false
evaluation: {surface: true}
export: {formats: [saved_model]}
report: {overlays: 2}
"""

_ROOT_FIELDS = "name, seed, data, pipeline, model, method, training, evaluation, export, report"
_SOURCES = "lidc, lidc_full, icbm152_tissue, folder, nnunet, npz, tfds"
_NOISES = (
    "reader, dilate, erode, shift, elastic, markov, polygon, missing, extra, class_flip, pixel_flip"
)
_NETWORKS = "unet, hub, equilibrium, unrolled_proximal"
_NAME = "expected a name of letters, digits, '.', '_' and '-'"
_SIZES = "expected a list of 2 or 3 sizes such as [64, 64], or null"
_FLIP = "expected true, false or a list of axes such as [0, 1]"
_OPEN = "expected a number between 0 and 1 (exclusive)"

# What is replaced in BASE, by what, and the message after the name of the file.
ONE_MISTAKE = [
    ("name: broken", "name: 12", f"1: name: got 12, {_NAME}"),
    ("name: broken", "name: ../up", f"1: name: got '../up', {_NAME}"),
    (
        "name: broken",
        "title: x\nname: broken",
        "1: title: unknown field; the fields here are " + _ROOT_FIELDS,
    ),
    ("name: broken\n", "", ": name: missing, and it has no default"),
    ("seed: 0", "seed: -1", "2: seed: got -1, expected a whole number from 0 to 2147483647"),
    ("seed: 0", "seed: 0.5", "2: seed: got 0.5, expected a whole number from 0 to 2147483647"),
    ("seed: 0", "seed: true", "2: seed: got true, expected a whole number from 0 to 2147483647"),
    ("seed: 0", "sed: 0", "2: sed: unknown field; did you mean `seed`?"),
    ("seed: 0", 'seed: "0"', "2: seed: got '0', expected a whole number from 0 to 2147483647"),
    (
        "source: {kind: lidc}",
        "source: {kind: lidcc}",
        f"4: data.source.kind: got 'lidcc', expected one of {_SOURCES}; did you mean `lidc`?",
    ),
    (
        "source: {kind: lidc}",
        "source: {}",
        f"4: data.source.kind: missing, expected one of {_SOURCES}",
    ),
    (
        "source: {kind: lidc}",
        "source: lidc",
        f"4: data.source: got 'lidc', expected a mapping with the field `kind`, one of {_SOURCES}",
    ),
    ("  source: {kind: lidc}\n", "", "3: data.source: missing, and it has no default"),
    (
        "source: {kind: lidc}",
        "source: {kind: lidc, siz: 64}",
        "4: data.source.siz: unknown field; did you mean `size`?",
    ),
    (
        "readers: random",
        "readers: all_of_them",
        "5: data.readers: got 'all_of_them', expected one of random, first, majority, "
        "staple, all, truth",
    ),
    (
        "readers: random",
        "readers: randon",
        "5: data.readers: got 'randon', expected one of random, first, majority, "
        "staple, all, truth; did you mean `random`?",
    ),
    (
        "kind: reader",
        "kind: raeder",
        f"7: data.noise.0.kind: got 'raeder', expected one of {_NOISES}; did you mean `reader`?",
    ),
    (
        "scale: 1.0",
        "scale: -1.0",
        "8: data.noise.0.scale: got -1.0, expected a number from 0 to 20, "
        "or a list [low, high] of two",
    ),
    (
        "scale: 1.0",
        "probability: 0.5\n    - {kind: erode, probability: 0.6}",
        "6: data.noise: got a list of 3, expected probabilities of at most 1 together, "
        "and these make 1.1",
    ),
    ("scale: 1.0", "scal: 1.0", "8: data.noise.0.scal: unknown field; did you mean `scale`?"),
    (
        "scale: 1.0",
        "probability: 1.5",
        "8: data.noise.0.probability: got 1.5, expected a number from 0 to 1",
    ),
    (
        "scale: 1.0",
        "target_dice: 1",
        "8: data.noise.0.target_dice: got 1, expected a number between 0 and 1 (exclusive), "
        "or null",
    ),
    (
        "radius: 2}",
        "radius: wide}",
        "9: data.noise.1.radius: got 'wide', expected a number from 0 "
        "to 10000, or a list [low, high] of two",
    ),
    (
        "radius: 2}",
        "relative: yes}",
        "9: data.noise.1.relative: got 'yes', expected true or false; write true or false",
    ),
    (
        "noise_splits: [train]",
        "noise_splits: [val, val]",
        "10: data.noise_splits: got a list of 2, expected each split once",
    ),
    (
        "noise_splits: [train]",
        "noise_splits: [test]",
        "10: data.noise_splits.0: got 'test', expected one of train, val",
    ),
    (
        "noise_splits: [train]",
        "noise_splits: train",
        "10: data.noise_splits: got 'train', expected a list",
    ),
    (
        "limit: {train: 8}",
        "limit: {train: 0}",
        "11: data.limit.train: got 0, expected a whole number of at least 1, or null",
    ),
    ("limit: {train: 8}", "limit: 8", "11: data.limit: got 8, expected a mapping of fields"),
    (
        "batch_size: 16",
        "batch_size: 0",
        "13: pipeline.batch_size: got 0, expected a whole number from 1 to 65536",
    ),
    (
        "batch_size: 16",
        "batchsize: 16",
        "13: pipeline.batchsize: unknown field; did you mean `batch_size`?",
    ),
    ("crop: [32, 32]", "crop: [32]", f"14: pipeline.crop: got a list of 1, {_SIZES}"),
    ("crop: [32, 32]", "crop: 32", f"14: pipeline.crop: got 32, {_SIZES}"),
    (
        "flip: true",
        "flip: no",
        f"16: pipeline.augment.flip: got 'no', {_FLIP}; write true or false",
    ),
    ("flip: true", "flip: [0, 0]", f"16: pipeline.augment.flip: got a list of 2, {_FLIP}"),
    (
        "{rotation: 15}",
        "{rotation: 200}",
        "17: pipeline.augment.affine.rotation: got 200, expected a number from 0 to 180",
    ),
    (
        "{rotation: 15}",
        "{rotations: 15}",
        "17: pipeline.augment.affine.rotations: unknown field; did you mean `rotation`?",
    ),
    (
        "cache: memory",
        "cache: ram",
        "18: pipeline.cache: got 'ram', expected one of memory, disk, none",
    ),
    (
        "{kind: unet, width: 8, depth: 3}",
        "{kind: u-net}",
        f"19: model.kind: got 'u-net', expected one of {_NETWORKS}; did you mean `unet`?",
    ),
    ("depth: 3", "depth: 3.0", "19: model.depth: got 3.0, expected a whole number from 1 to 8"),
    (
        "kind: pencil",
        "kind: pencl",
        "21: method.kind: got 'pencl', expected one of supervised, pencil, elr, co_teaching, "
        "adele, confusion_matrices; did you mean `pencil`?",
    ),
    ("flip_margin: 0.2", "flip_margin: 1.5", f"22: method.flip_margin: got 1.5, {_OPEN}"),
    ("flip_margin: 0.2", "flip_margin: .nan", f"22: method.flip_margin: got nan, {_OPEN}"),
    (
        "flip_margin: 0.2",
        "flip_margin: 0.2\n  alpha: 0.1",
        "20: method: got flip_margin and alpha, expected one of flip_margin, trust, alpha",
    ),
    (
        "warmup: 0.3",
        "warmup: 30",
        "23: method.warmup: got 30, expected a number from 0 to 1, or auto",
    ),
    (
        "warmup: 0.3",
        "warmup: auto\n  finetune: 0.95",
        "20: method: got warmup auto and finetune 0.95, expected a sum of at most 1 "
        "(auto takes at least 0.1)",
    ),
    (
        "warmup: 0.3",
        "warmup: 0.9\n  finetune: 0.5",
        "20: method: got warmup 0.9 and finetune 0.5, expected a sum of at most 1",
    ),
    (
        "epochs: 2",
        "epochs: 2e0",
        "25: training.epochs: got 2.0, expected a whole number from 1 to 1000000",
    ),
    (
        "epochs: 2",
        "epochs: " + "9" * 30,
        f"25: training.epochs: got {'9' * 30}, expected a whole number from 1 to 1000000",
    ),
    ("epochs: 2", "epoch: 2", "25: training.epoch: unknown field; did you mean `epochs`?"),
    (
        "kind: adam,",
        "kind: adan,",
        "26: training.optimizer.kind: got 'adan', expected one of adam, adamw, sgd; "
        "did you mean `adam`?",
    ),
    (
        "learning_rate: 1e-3",
        "learning_rate: 0",
        "26: training.optimizer.learning_rate: got 0, expected a number above 0",
    ),
    (
        "learning_rate: 1e-3",
        "learning_rate: .inf",
        "26: training.optimizer.learning_rate: got inf, expected a number above 0",
    ),
    (
        "learning_rate: 1e-3",
        "momentum: 0.9",
        "26: training.optimizer.momentum: unknown field; the fields here are "
        "kind, learning_rate, weight_decay, schedule",
    ),
    (
        "precision: float32",
        "precision: float16",
        "27: training.precision: got 'float16', expected one of float32, mixed_bfloat16, "
        "mixed_float16; did you mean `float32`?",
    ),
    (
        "jit_compile: false",
        "jit_compile: off",
        "28: training.jit_compile: got 'off', expected true or false; write true or false",
    ),
    (
        "jit_compile: false",
        "jit_compile: 0",
        "28: training.jit_compile: got 0, expected true or false",
    ),
    (
        "{surface: true}",
        "[surface]",
        "29: evaluation: got a list of 1, expected a mapping of fields",
    ),
    (
        "formats: [saved_model]",
        "formats: [onxx]",
        "30: export.formats.0: got 'onxx', expected one of saved_model, onnx, litert; "
        "did you mean `onnx`?",
    ),
    (
        "formats: [saved_model]",
        "formats: []",
        "30: export.formats: got a list of 0, expected at least one format, and each once",
    ),
    ("formats: [saved_model]", "name: a/b", f"30: export.name: got 'a/b', {_NAME}, or null"),
    (
        "{overlays: 2}",
        "{overlays: two}",
        "31: report.overlays: got 'two', expected a whole number from 0 to 1000",
    ),
    ("report: {overlays: 2}", "report: null", "31: report: got null, expected a mapping of fields"),
]

# Whole texts that are not even well-formed, or not harmless.
BROKEN_TEXT = [
    ("a: [1", "2: not valid YAML: did not find expected ',' or ']'"),
    ("a: 1\n\tb: 2", "2: not valid YAML: found a tab character that violates indentation"),
    ("a: 1\na: 2", "2: duplicate key `a`, first given at my.yaml:1"),
    ("a: {b: 1, b: 2}", "1: duplicate key `b`, first given at my.yaml:1"),
    (
        "a: !!python/object/apply:os.system [ls]",
        "1: got the tag 'tag:yaml.org,2002:python/object/apply:os.system'; "
        "a recipe has no YAML tags",
    ),
    ("a: 1\n---\nb: 2", "2: not valid YAML: but found another document"),
    ("a: *b", "1: not valid YAML: found undefined alias"),
    ("? [1]\n: 2", "1: a key must be a plain word"),
    ("a: " + "[" * 50 + "]" * 50, "1: nested more than 20 deep, which no recipe is"),
    ("a: &x {b: *x}", "1: nested more than 20 deep, which no recipe is"),
    ("seed: " + "9" * 5000, "1: a number of 5000 digits is too long"),
    ("", ": got nothing, expected the fields of a recipe"),
    ("- a\n- b", ": got a list of 2, expected the fields of a recipe"),
    ("just words", ": got 'just words', expected the fields of a recipe"),
]


def _message(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("my.yaml")
    return str(caught.value)


def _full(tail):
    return f"my.yaml{tail}" if tail.startswith(":") else f"my.yaml:{tail}"


def test_base_is_valid(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(BASE)
    assert load_recipe(path).training.optimizer.learning_rate == 1e-3


@pytest.mark.parametrize(("old", "new", "tail"), ONE_MISTAKE, ids=lambda part: part[:24])
def test_one_mistake_gives_one_exact_line(tmp_path, monkeypatch, old, new, tail):
    assert BASE.count(old) == 1
    assert _message(tmp_path, BASE.replace(old, new), monkeypatch) == _full(tail)


@pytest.mark.parametrize(("text", "tail"), BROKEN_TEXT, ids=lambda part: part[:24])
def test_broken_text_gives_one_exact_line(tmp_path, monkeypatch, text, tail):
    assert _message(tmp_path, text, monkeypatch) == _full(tail)


def test_all_mistakes_are_listed_in_the_order_of_the_file(tmp_path, monkeypatch):
    text = BASE
    fields = ("seed: -1", "scal: 1.0", "crop: 32", "cache: ram", "warmup: 30", "epoch: 2")
    chosen = [case for case in ONE_MISTAKE if case[1] in fields]
    assert len(chosen) == len(fields)
    for old, new, _ in chosen:
        text = text.replace(old, new)
    expected = [_full(tail) for _, _, tail in chosen]
    assert _message(tmp_path, text, monkeypatch).splitlines() == expected


def test_aliases_that_multiply_are_refused(tmp_path, monkeypatch):
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + n)}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(8)]
    message = _message(tmp_path, "\n".join(lines), monkeypatch)
    assert message.endswith("more than 20000 values, aliases counted each time")


def test_files_that_are_no_text_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big.yaml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "bytes.yaml").write_bytes(b"name: x\nseed: \xff\xfe")
    (tmp_path / "folder.yaml").mkdir()
    expected = {
        "big.yaml": "big.yaml: larger than 1 MB, which no recipe is; is this a recipe?",
        "bytes.yaml": "bytes.yaml:2: not UTF-8 text; is this a recipe?",
        "folder.yaml": "folder.yaml: cannot be read: Is a directory",
        "none.yaml": "none.yaml: cannot be read: No such file or directory",
    }
    for name, message in expected.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(name)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "training.epochs: got 0, expected a whole number from 1 to 1000000"),
        ("training.epohs=3", "training.epohs: unknown field; did you mean `epochs`?"),
        ("trainng.epochs=3", "trainng: unknown field; did you mean `training`?"),
        (
            "model.kind=unett",
            f"model.kind: got 'unett', expected one of {_NETWORKS}; did you mean `unet`?",
        ),
        ("training.epochs", "expected FIELD=VALUE, such as training.epochs=3"),
        ("=3", "expected FIELD=VALUE, such as training.epochs=3"),
        ("training..epochs=3", "expected FIELD=VALUE, such as training.epochs=3"),
        ("data.noise.2.radius=3", "data.noise has positions 0 to 1, got '2'"),
        ("data.noise.x.radius=3", "data.noise has positions 0 to 1, got 'x'"),
        ("training.epochs.low=3", "training.epochs is 2, which has no `low`"),
        ("data.noise=none", "data.noise: got 'none', expected a list"),
        (
            "data.noise.1.radius=-3",
            "data.noise.1.radius: got -3, expected a number from 0 to 10000, "
            "or a list [low, high] of two",
        ),
    ],
)
def test_wrong_override_is_named(tmp_path, override, message):
    path = tmp_path / "my.yaml"
    path.write_text(BASE)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides=[override])
    assert str(caught.value) == f"--set {override}: {message}"


def test_override_that_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(BASE)
    with pytest.raises(RecipeError, match=r"^--set data.noise=\[: not valid YAML: "):
        load_recipe(path, overrides=["data.noise=["])
