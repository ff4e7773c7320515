"""The bilevel tuner: hyper-parameters by the gradient of a validation loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_robustseg.classifiers._base import copied
from keras_robustseg.tuning._baselines import (
    Budget,
    Search,
    grid_search,
    random_search,
    validation_alone,
)
from keras_robustseg.tuning._data import Data, fold_rows, read_data, with_groups
from keras_robustseg.tuning._hyperparameter import (
    Hyperparameter,
    Vector,
    check_records,
)
from keras_robustseg.tuning._inner import Differentiate, Inner, fit_at, implicit
from keras_robustseg.tuning._outer import OPTIMISERS
from keras_robustseg.tuning._problem import Evaluation, OuterProblem
from keras_robustseg.tuning._report import OuterStep, Row, TuningReport
from keras_robustseg.tuning._unrolled import Unrolled

METHODS = ("implicit", "unrolled", "one_step")
COSTS = ("solves", "seconds")


class BilevelTuner:
    """Finds hyper-parameters h of an estimator by descent on a validation loss.

        minimise over h   loss(W(h); validation)    with   W(h) = argmin over W of objective(W; h)

    The gradient of the loss to h, the hypergradient, comes from the optimality conditions of the
    inner problem: it costs one linear system however many hyper-parameters there are. The inner
    problem is solved to a tolerance that falls from step to step (HOAG, Pedregosa, ICML 2016),
    starting from the last solution. Nonsmooth inner problems are differentiated on their active
    set (Bolte et al., NeurIPS 2021); every step carries the certificate of that.

    Args:
        estimator: of `keras_robustseg.classifiers`, or anything that fulfils `TunableEstimator`.
            It is copied, not changed.
        hyperparameters: what is tuned.
        validation: a small clean set `(X, y)` or `(X, y, sample_weight)`, or a number of folds of
            the training data. Folds are as noisy as the training data: they can find penalties,
            not bad annotators.
        method: how the hypergradient is computed: "implicit", the estimator's own, which is exact;
            "unrolled", through `unroll_steps` steps of proximal gradient descent, or "one_step",
            through one. These two know `PixelLogisticRegression` only, and are its first terms:
            see `docs/tuning.md` for how far off they are. "one_step" warns.
        optimizer: "adam" or "lbfgs". L-BFGS solves every inner problem to the last tolerance.
        steps: outer steps at most, each one inner solve and one linear system per split.
        learning_rate: of Adam, in free variables.
        tolerances: first and last tolerance of the inner solves, for estimators with `tol`.
        gradient_tolerance: stop when no entry of the hypergradient is larger.
        unroll_steps: for "unrolled".
        baseline_cost: what is equal for grid, random search and tuner: "solves" (a linear system
            counts as one) or "seconds" of processor time.
        seed: of folds and of the random search.

    Attributes:
        values_: name -> tuned value, of the step with the least loss.
        estimator_: fitted to all training data at these values.
        steps_: the outer steps, with certificates.
        annotators_: names of the annotators, in the order of their weights, or None.

    Raises:
        ValueError: an argument is not one of the above.
        TypeError: a hyper-parameter is no `Hyperparameter`.

    Example:
        ```python
        tuner = BilevelTuner(
            PixelLogisticRegression(),
            [Hyperparameter("sample_weight", transform="sigmoid", per="annotator")],
            validation=(X_clean, y_clean),
        )
        tuner.fit(X, y, groups=annotator)
        print(tuner.report().text())
        ```
    """

    def __init__(
        self,
        estimator: Any,
        hyperparameters: Sequence[Hyperparameter],
        validation: Any,
        method: str = "implicit",
        *,
        optimizer: str = "adam",
        steps: int = 60,
        learning_rate: float = 0.2,
        tolerances: tuple[float, float] = (1e-3, 1e-8),
        gradient_tolerance: float = 1e-6,
        unroll_steps: int = 100,
        baseline_cost: str = "solves",
        seed: int = 0,
    ) -> None:
        check_records(hyperparameters)
        _check_choice("method", method, METHODS)
        _check_choice("optimizer", optimizer, tuple(OPTIMISERS))
        _check_choice("baseline_cost", baseline_cost, COSTS)
        _check_whole("steps", steps)
        _check_whole("unroll_steps", unroll_steps)
        _check_numbers(learning_rate, tolerances)
        self.estimator, self.hyperparameters = estimator, tuple(hyperparameters)
        self.validation, self.method, self.optimizer = validation, method, optimizer
        self.steps, self.learning_rate, self.tolerances = steps, learning_rate, tolerances
        self.gradient_tolerance, self.unroll_steps = gradient_tolerance, unroll_steps
        self.baseline_cost, self.seed = baseline_cost, seed

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Tune, and fit the estimator to all training data at the values found.

        Args:
            X: (N, F) pixels, or (B, *S, F) images.
            y: class ids, negative for void, or soft labels with a last axis C.
            sample_weight: base weights, of the shape of the ids.
            groups: the annotator of each pixel or image, numbers or texts.

        Raises:
            ValueError: shapes do not fit, or the first inner problem has no finite loss.
        """
        data, names = with_groups(read_data(X, y, sample_weight), groups)
        self.annotators_ = None if names is None else tuple(names.tolist())
        self._data = data
        self._problem = OuterProblem(self._inners(data), self._vector(data))
        self._records: list[tuple[OuterStep, np.ndarray, Evaluation]] = []
        self._searches: dict[str, Search] = {}
        self._descend()
        self._keep_best()
        return self

    def report(self, test: Any = None) -> TuningReport:
        """Return trajectory, certificates and the comparison with the baselines.

        Grid and random search and the training on the validation data alone run at the first
        call; the searches cost as much as the tuning did.

        Args:
            test: `(X, y)` that nothing was chosen by, for the column of scores.

        Raises:
            ValueError: not fitted.
        """
        if not hasattr(self, "estimator_"):
            raise ValueError("Expected a fitted tuner. Call fit(X, y) first.")
        self._run_baselines()
        rows = [self._start_row(test), self._tuned_row(test)]
        rows += [self._search_row(name, test) for name in self._searches]
        steps = tuple(step for step, _, _ in self._records)
        return TuningReport(steps, tuple(rows), self.values_, self.annotators_)

    # Set-up

    def _vector(self, data: Data) -> Vector:
        annotators = None if self.annotators_ is None else len(self.annotators_)
        sizes = {
            "class": data.classes(),
            "feature": data.x.shape[-1],
            "annotator": annotators,
            "sample": data.weight.shape,
        }
        return Vector(self.hyperparameters, sizes)

    def _inners(self, data: Data) -> list[Inner]:
        every = np.arange(data.weight.shape[0])
        per_annotator = any(part.per == "annotator" for part in self.hyperparameters)
        if isinstance(self.validation, (int, np.integer)):
            splits = fold_rows(data, int(self.validation), self.seed)
            parts = [(data.take(train), data.take(held), train) for train, held in splits]
        else:
            parts = [(data, self._clean(), every)]
        way = self._differentiate()
        return [Inner(self.estimator, *part, per_annotator, way) for part in parts]

    def _differentiate(self) -> Differentiate:
        if self.method == "implicit":
            return implicit
        if self.method == "unrolled":
            return Unrolled(self.unroll_steps)
        warnings.warn(
            "method='one_step' is the first term of a series: unless the inner steps contract "
            "strongly, its direction can be wrong. Use method='implicit'.",
            RuntimeWarning,
            stacklevel=4,
        )
        return Unrolled(1)

    def _clean(self) -> Data:
        if not isinstance(self.validation, (tuple, list)) or len(self.validation) not in (2, 3):
            raise ValueError(
                "Expected validation to be (X, y), (X, y, sample_weight) or a number of folds. "
                f"Received: {type(self.validation).__name__}"
            )
        return read_data(*self.validation)

    # Descent

    def _tolerance(self) -> float | None:
        """Tolerance of the next inner solve: from the first to the last in equal ratios."""
        first, last = self.tolerances
        if self.optimizer == "lbfgs":
            return last
        done = min(1.0, len(self._records) / max(1, self.steps - 1))
        return float(first ** (1 - done) * last**done)

    def _descend(self) -> None:
        free = self._problem.vector.initial()
        limits = self._problem.vector.limits()
        OPTIMISERS[self.optimizer](
            self._evaluate, free, limits, self.steps, self.learning_rate, self.gradient_tolerance
        )

    def _evaluate(self, free: np.ndarray) -> tuple[float, np.ndarray]:
        tolerance = self._tolerance()
        found = self._problem.evaluate(free, tolerance)
        if not (np.isfinite(found.objective) and np.isfinite(found.gradient).all()):
            self._warn_or_refuse(found)
        self._records.append((self._outer_step(free, tolerance, found), free.copy(), found))
        return found.objective, found.gradient

    def _warn_or_refuse(self, found: Evaluation) -> None:
        message = (
            f"The validation loss or its gradient is not finite at outer step "
            f"{len(self._records)} (loss {found.loss})."
        )
        if not self._records:
            raise ValueError(f"{message} Choose other initial values, or check the data.")
        warnings.warn(f"{message} The best step before it is kept.", RuntimeWarning, stacklevel=6)

    def _outer_step(
        self, free: np.ndarray, tolerance: float | None, found: Evaluation
    ) -> OuterStep:
        from keras_robustseg.optimize import Status

        before = self._records[-1][0].seconds if self._records else 0.0
        return OuterStep(
            len(self._records),
            found.loss,
            float(np.max(np.abs(found.gradient), initial=0.0)),
            tolerance,
            Status(found.status).name,
            found.residual,
            found.adjoint_residual,
            found.iterations,
            before + found.seconds,
            self._problem.vector.values(free),
        )

    def _keep_best(self) -> None:
        losses = [found.objective for _, _, found in self._records]
        self._best = int(np.nanargmin(losses))
        self.steps_ = tuple(step for step, _, _ in self._records)
        self.values_ = self.steps_[self._best].values
        self.estimator_ = self._fitted(self.values_, self._data)

    def _fitted(self, values: dict[str, np.ndarray], data: Data) -> Any:
        copy = copied(self.estimator)
        inner = Inner(
            copy, data, data, np.arange(data.weight.shape[0]), self._problem.inners[0].per_annotator
        )
        return fit_at(copy, data._replace(weight=inner.weights(values)), values, None)

    # Baselines

    def _run_baselines(self) -> None:
        if self._searches:
            return
        seconds, solves = self.steps_[-1].seconds, sum(one.solves for _, _, one in self._records)
        budget = Budget(solves) if self.baseline_cost == "solves" else Budget(None, seconds)
        last, vector = self.tolerances[1], self._problem.vector
        self._searches["grid search"] = grid_search(self._problem, budget, last)
        self._searches["random search"] = random_search(self._problem, budget, last, self.seed)
        if not isinstance(self.validation, (int, np.integer)):
            self._searches["validation data alone"] = validation_alone(
                self.estimator, self._clean(), vector, seed=self.seed
            )

    def _start_row(self, test: Any) -> Row:
        step, _, found = self._records[0]
        score = self._score(step.values, self._data, test)
        return Row("start", step.loss, score, found.solves, step.seconds, "", step.values)

    def _tuned_row(self, test: Any) -> Row:
        solves = sum(found.solves for _, _, found in self._records)
        best = self.steps_[self._best]
        score = None if test is None else float(self.estimator_.score(*test))
        note = f"step {self._best} of {len(self.steps_)}"
        return Row("tuned", best.loss, score, solves, self.steps_[-1].seconds, note, self.values_)

    def _search_row(self, name: str, test: Any) -> Row:
        found = self._searches[name]
        alone = name == "validation data alone"
        data = self._clean() if alone else self._data
        score = None if found.values is None else self._score(found.values, data, test)
        note = found.note if alone else f"{found.candidates} candidates, {found.note}"
        return Row(name, found.loss, score, found.solves, found.seconds, note, found.values)

    def _score(self, values: dict[str, np.ndarray], data: Data, test: Any) -> float | None:
        if test is None:
            return None
        return float(self._fitted(values, data).score(*test))


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"Expected {name} to be one of {known}. Received: {name}={value!r}")


def _check_whole(name: str, value: int) -> None:
    if not (isinstance(value, (int, np.integer)) and value >= 1):
        raise ValueError(f"Expected {name} to be a whole number from 1. Received: {name}={value!r}")


def _check_numbers(learning_rate: float, tolerances: tuple[float, float]) -> None:
    if not learning_rate > 0:
        raise ValueError(f"Expected learning_rate above 0. Received: {learning_rate!r}")
    if not (len(tolerances) == 2 and 0 < tolerances[1] <= tolerances[0]):
        raise ValueError(
            "Expected tolerances (first, last) with 0 < last <= first. "
            f"Received: tolerances={tolerances!r}"
        )
