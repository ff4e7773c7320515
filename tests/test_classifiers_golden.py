"""Logistic regression and support vector machines agree with reference solutions of 1e-9."""

from __future__ import annotations

import numpy as np
from classifier_cases import golden
from numpy.testing import assert_allclose

from keras_robustseg.classifiers import CoefficientGradient, PixelLogisticRegression, PixelSVM
from keras_robustseg.optimize import Status


def test_multinomial_logistic_regression():
    case = golden("logistic")
    l2 = np.tile(case["lam"], (7, 1))
    l2[-1] = 1e-3  # the last column of X is ones
    model = PixelLogisticRegression(l2, fit_intercept=False)
    model.fit(case["X"], case["Y"], case["sample_weight"])
    assert model.solve_info_.status == Status.OK
    assert_allclose(model.coef_.T, case["W"], atol=1e-9)
    validation = case["X_val"], case["Y_val"]
    assert_allclose(model.validation_loss(*validation), case["val"], rtol=1e-10)
    found = model.hypergradient(*validation)
    assert_allclose(found["l2"][:-1].sum(axis=0), case["dval_dlam"], rtol=1e-7)
    assert_allclose(found["sample_weight"], case["dval_dsample_weight"], rtol=1e-7, atol=1e-12)
    assert_allclose(found["soft_labels"], case["dval_dY"], rtol=1e-7, atol=1e-12)


def test_binary_logistic_regression_with_an_elastic_net():
    case = golden("logistic")
    model = PixelLogisticRegression(
        float(case["bin_l2"]), l1=float(case["bin_l1"]), fit_intercept=False
    ).fit(case["X"][:, :-1], case["bin_y"] > 0)
    assert_allclose(model.coef_[0], case["bin_w"], atol=1e-9)
    found = model.hypergradient(case["X_val"][:, :-1], case["bin_y_val"] > 0, names=("l1", "l2"))
    assert_allclose(found["l1"], case["bin_dval_dl1"], rtol=1e-7)
    assert_allclose(found["l2"], case["bin_dval_dl2"], rtol=1e-7)


def test_hinge():
    case = golden("svm")
    model = PixelSVM("hinge", 1.0, fit_intercept=False, reduction="sum")
    model.fit(case["X"], case["y"] > 0, case["C"])
    assert model.solve_info_.status == Status.OK
    assert_allclose(model.coef_[0], case["w"], atol=1e-9)
    validation = case["X_val"], case["y_val"] > 0
    assert_allclose(model.validation_loss(*validation), case["val"], rtol=1e-9)
    found = model.hypergradient(*validation, names=["sample_weight"])["sample_weight"]
    assert_allclose(found, case["dval_dC"], rtol=1e-7, atol=1e-12)


def test_squared_hinge():
    case = golden("svm")
    model = PixelSVM("squared_hinge", float(case["sq_lam"]), fit_intercept=False)
    model.fit(case["X"], case["y"] > 0, case["sq_s"])
    assert_allclose(model.coef_[0], case["sq_w"], atol=1e-9)
    found = model.hypergradient(case["X_val"], case["y_val"] > 0)
    assert_allclose(found["l2"], case["sq_dval_dlam"], rtol=1e-7)
    assert_allclose(found["sample_weight"], case["sq_dval_ds"], rtol=1e-7, atol=1e-12)


def test_crammer_singer():
    case = golden("svm")
    model = PixelSVM("crammer_singer", 1.0, fit_intercept=False, reduction="sum")
    model.fit(case["cs_X"], case["cs_labels"], case["C"])
    assert_allclose(model.coef_.T, case["cs_W"], atol=1e-8)
    cotangent = CoefficientGradient(case["cs_cotangent"].T, np.zeros(3))
    found = model.hypergradient(cotangent, names=["sample_weight", "l2"])
    along_costs = np.vdot(found["sample_weight"], case["C"])
    assert_allclose(along_costs, case["cs_dRW_dlogCscale_fd"][0], rtol=1e-4)
    # Twice all costs is half the penalty.
    assert_allclose(along_costs, -found["l2"], rtol=1e-8)
