"""Label rows in 16 and 8 bits: what is kept is right on average, and the masks agree."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg.labels import LabelStore, label_store_bytes, row_step
from keras_robustseg.labels._store_codec import LEVEL, LIMIT, decode, encode, weyl

SMALL = ["float16", "uint8"]


def kept(values, dither, storage):
    codes = encode(np.asarray(values, "float32"), np.asarray(dither, "float32"), storage)
    return decode(codes.astype(storage).astype("float32"), storage)


@pytest.mark.parametrize("storage", SMALL)
def test_rounding_is_right_on_average_and_at_most_one_level_off(rng, storage):
    values = rng.uniform(-15, 15, 300).astype("float32")
    dither = (np.arange(4096) / 4096)[:, None]
    rounded = kept(values, dither, storage)
    level = (
        np.full(300, LEVEL) if storage == "uint8" else 2.0 ** (np.floor(np.log2(abs(values))) - 10)
    )
    assert (np.abs(rounded - values) <= level * 1.0001).all()
    np.testing.assert_allclose((rounded.mean(0) - values) / level, 0, atol=1e-3)


@pytest.mark.parametrize("storage", SMALL)
def test_what_was_kept_is_kept_again_unchanged(rng, storage):
    once = kept(rng.uniform(-15, 15, 500), 0.3, storage)
    for dither in (0.0, 0.5, 4095 / 4096):
        np.testing.assert_array_equal(kept(once, dither, storage), once)


def test_eight_bits_clip_where_a_softmax_is_decided():
    assert kept([100.0, -100.0, 0.0], 0.5, "uint8").tolist() == [LIMIT, -LIMIT, 0.0]


def test_the_weyl_sequence_is_even_over_visits_and_over_pixels():
    rows = np.arange(1000, dtype="int32")
    for values in (
        weyl(rows, np.array([5], "int32")),
        weyl(np.array([7], "int32"), rows),
        weyl(np.array([7], "int32"), 37 * rows),  # every 37th step, as an epoch does
    ):
        assert values.min() >= 0
        assert values.max() < 1
        counts = np.histogram(values, 20, (0, 1))[0]
        assert abs(counts - 50).max() <= 5
    tensor = ops.convert_to_numpy(weyl(ops.convert_to_tensor(rows), ops.convert_to_tensor(11), ops))
    np.testing.assert_array_equal(tensor, weyl(rows, np.array([11], "int32")))


@pytest.mark.parametrize("storage", ["float32", *SMALL])
def test_reads_zero_at_first_and_adds_where_it_was_told(storage):
    store = LabelStore([(3, 4), (2, 5)], 3, storage=storage)
    index = np.array([[[[0], [13]], [[21], [-1]]]], "int32")
    update = np.arange(8, dtype="float32").reshape(1, 2, 2, 2)
    assert np.abs(ops.convert_to_numpy(store.read(index))).max() == 0
    for _ in range(2):
        store.add(index, update)
    found = ops.convert_to_numpy(store.read(index))
    np.testing.assert_array_equal(found[0, 0], 2 * update[0, 0])
    np.testing.assert_array_equal(found[0, 1, 0], 2 * update[0, 1, 0])
    assert (found[0, 1, 1] == 0).all()
    untouched = [i for i in range(22) if i not in (0, 13, 21)]
    whole = np.concatenate([store.sample(i).reshape(-1, 2) for i in range(2)])
    assert (whole[untouched] == 0).all()


@pytest.mark.parametrize("storage", ["float32", *SMALL])
def test_interpolated_taps_that_meet_in_a_row_are_summed(rng, storage):
    store = LabelStore([(4, 4)], 2, storage=storage)
    index = rng.integers(-1, 16, (1, 6, 6, 4)).astype("int32")
    weight = rng.uniform(0, 0.3, index.shape).astype("float32")
    update = rng.normal(size=(1, 6, 6, 1)).astype("float32")
    wanted = np.zeros(16)
    np.add.at(wanted, index[index >= 0], (update * weight)[index >= 0])
    runs = 1 if storage == "float32" else 60
    for _ in range(runs):
        store.add(index, update / runs, weight)
    # Four levels, of 16 bits at 4 and of 8 bits: rounding errors of a row do not add up.
    atol = {"float32": 1e-5, "float16": 4 * 2**-9, "uint8": 4 * LEVEL}[storage]
    np.testing.assert_allclose(store.sample(0).reshape(-1), wanted, atol=atol)


def converged(storage, p, yhat, margin, visits):
    """Label probabilities averaged over the last visits, and the last ones."""
    shape = p.shape[1:-1]
    store = LabelStore([shape] * len(p), p.shape[-1], storage=storage)
    index, mean = store.index(np.arange(len(p))), 0.0
    for visit in range(visits):
        offsets = ops.convert_to_numpy(store.read(index))
        z = np.log(np.maximum(yhat, np.exp(-10)))
        z = z + np.concatenate([np.zeros_like(offsets[..., :1]), offsets], -1)
        q = np.exp(z - z.max(-1, keepdims=True))
        q = (q / q.sum(-1, keepdims=True)).astype("float32")
        mean = mean + q * (visit >= visits // 2) / (visits - visits // 2)
        store.add(index, row_step(p, q, yhat, flip_margin=margin))
    return mean, q


def test_corrected_masks_of_small_storage_agree_with_float32(rng):
    """Labels near the margin may tremble by a level; the others end in the same class."""
    p = rng.dirichlet(np.ones(3), (2, 8, 8)).astype("float32") * 0.9 + 0.1 / 3
    yhat = np.eye(3, dtype="float32")[rng.integers(3, size=(2, 8, 8))]
    margin, optimum = 0.2, None
    optimum = (p + margin * yhat) / (1 + margin)
    ordered = np.sort(optimum, -1)
    for storage, tremble in (("float32", 1e-4), ("float16", 4e-3), ("uint8", 0.06)):
        mean, last = converged(storage, p, yhat, margin, 160)
        clear = ordered[..., -1] - ordered[..., -2] > 2 * tremble
        assert clear.mean() > 0.7
        assert (last.argmax(-1) == optimum.argmax(-1))[clear].all()
        np.testing.assert_allclose(last, optimum, atol=tremble)
        np.testing.assert_allclose(mean, optimum, atol=max(tremble / 4, 1e-3))


@pytest.mark.parametrize("storage", SMALL)
def test_small_steps_are_not_lost(storage):
    """Steps far below a level: rounded to the nearest they would never add up to anything."""
    store = LabelStore([(8, 8)], 2, storage=storage)
    store.add(store.index(np.array([0])), np.full((1, 8, 8, 1), 8.0, "float32"))
    small = np.full((1, 8, 8, 1), 0.003, "float32")
    index = store.index(np.array([0]))
    for _ in range(200):
        store.add(index, small)
    assert store.sample(0).mean() == pytest.approx(8.6, abs=0.02)
    assert np.abs(store.sample(0) - 8.6).max() < 3 * LEVEL


def test_sizes_and_the_way_out_are_told():
    shapes = [(64, 64)] * 1000
    sizes = [label_store_bytes(shapes, 2, s) for s in ("float32", "float16", "uint8")]
    assert sizes == [16_384_000, 8_192_000, 4_096_000]
    with pytest.raises(ValueError, match=r'float16.*uint8.*store="disk".*store="teacher"'):
        LabelStore([(2048, 2048)] * 400, 200)
    with pytest.raises(ValueError, match=r'uint8.*store="disk"'):
        LabelStore([(2048, 2048)] * 400, 200, storage="float16")
    with pytest.raises(ValueError, match="storage"):
        label_store_bytes(shapes, 2, "int4")
    with pytest.raises(ValueError, match='store="disk"'):
        LabelStore([(2**16, 2**16)], 2, storage="uint8")


def test_one_label_a_sample_has_rows_too():
    store = LabelStore([()] * 5, 4)
    index = store.index(np.array([3, 1]))
    assert tuple(index.shape) == (2, 1)
    store.add(index, np.ones((2, 3), "float32"))
    assert store.sample(3).tolist() == [1.0, 1.0, 1.0]
    assert store.sample(0).tolist() == [0.0, 0.0, 0.0]


def test_config_keeps_the_storage():
    store = LabelStore([(2, 2)], 3, storage="uint8")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(store))
    assert again.storage == "uint8"


@pytest.mark.parametrize("storage", ["float32", *SMALL])
def test_xla_gives_the_same_rows(rng, storage):
    import tensorflow as tf

    index = rng.integers(-1, 16, (1, 3, 3, 2)).astype("int32")
    weight = rng.uniform(0, 0.5, index.shape).astype("float32")
    update = rng.normal(size=(2, 1, 3, 3, 1)).astype("float32")
    rows = []
    for jit in (False, True):
        store = LabelStore([(4, 4)], 2, storage=storage)
        add = tf.function(store.add, jit_compile=jit)
        for one in update:
            add(index, one, weight)
        rows.append(store.sample(0))
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-6)
