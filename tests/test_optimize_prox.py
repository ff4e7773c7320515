"""What every proximal operator and projection promises: exact derivatives, types, compilation."""

from __future__ import annotations

import numpy as np
import prox_cases
import pytest
import tensorflow as tf

from keras_robustseg import optimize

each_operator = pytest.mark.parametrize("operator", prox_cases.OPERATORS, ids=str)
each_type = pytest.mark.parametrize("dtype", ["float64", "float32"])


@each_operator
def test_derivatives_are_those_of_finite_differences(operator, rng):
    prox_cases.has_exact_derivative(operator, rng)


@each_operator
def test_operators_of_convex_functions_are_firmly_nonexpansive(operator, rng):
    if operator.convex:
        prox_cases.is_firmly_nonexpansive(operator, rng)


@each_type
@each_operator
def test_values_and_derivatives_are_finite_at_extremes(operator, dtype, rng):
    prox_cases.is_finite_at_extremes(operator, rng, dtype)


@pytest.mark.slow
@each_type
@each_operator
def test_graphs_and_xla_give_the_values_of_eager_mode(operator, dtype, rng):
    prox_cases.is_the_same_compiled(operator, rng, dtype)


@each_operator
def test_bad_data_is_refused(operator, rng):
    x, *parameters = operator.draw(rng)
    x[..., 0] = np.nan  # a matrix, too, is refused for this before it is for its asymmetry
    with pytest.raises(ValueError, match=r"finite.*Received"):
        operator.call(x, *parameters)
    with pytest.raises(ValueError, match=r"real numbers.*complex"):
        operator.call(np.zeros(x.shape, "complex128"), *parameters)


@each_operator
def test_half_precision_is_computed_in_float32(operator, rng):
    x, *parameters = (each.astype("float32") for each in operator.draw(rng))
    rounded = x.astype("float16")
    found = operator.call(rounded, *parameters)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, operator.call(rounded.astype("float32"), *parameters))


def test_second_derivatives_of_plain_formulas_are_right(rng):
    x, v = rng.normal(0, 2, 5), rng.normal(size=5)

    def slope(x):
        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(v * optimize.project_l2_ball(x) + optimize.project_simplex(x))
        return tape.gradient(value, x)

    _, second = prox_cases.pulled_back(slope, (x,), v)
    expected, (direction,) = prox_cases.differences(slope, (x,), v, rng)
    np.testing.assert_allclose(np.sum(second * direction), expected[0], rtol=1e-5)
