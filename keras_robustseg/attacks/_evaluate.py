"""Robustness of a segmentation model: the worst of several attacks, image by image."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_robustseg.attacks._defaults import ATTACK_NAMES, DEFAULT_ATTACKS, DEFAULT_EPS
from keras_robustseg.attacks._evaluate_checks import Probe, run_checks
from keras_robustseg.attacks._evaluate_report import Example, RobustnessReport
from keras_robustseg.attacks._evaluate_scores import (
    Tally,
    confusion,
    hits_by_size,
    objects_by_size,
)
from keras_robustseg.attacks._problem import prepare
from keras_robustseg.attacks._result import AttackResult, class_map

Attack = Callable[..., AttackResult]
CLEAN, NOISE, TRANSFER, WORST = "clean", "noise", "transfer", "worst"


@dataclass
class Record:
    """What was found so far.

    Attributes:
        tallies: counts by (attack, eps); those of the clean images at (CLEAN, 0).
        minimal: by attack of minimal norm, the norm of each image, infinite where it failed.
        flipped: by (attack, eps), share of valid pixels that differ from the labels, (B,) parts.
        names: of the images.
        examples: images to look at.
        probe: the first batch, for checks that need further attacks.
    """

    tallies: dict[tuple[str, float], Tally] = field(default_factory=dict)
    minimal: dict[str, list[float]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    probe: Probe | None = None

    def add(self, key: tuple[str, float], counts: np.ndarray, sizes: np.ndarray) -> None:
        """Add one image."""
        tally = self.tallies.setdefault(key, Tally([], []))
        tally.counts.append(counts)
        tally.sizes.append(sizes)


@dataclass(frozen=True)
class Setting:
    """How a model is evaluated; see `evaluate_robustness`."""

    attacks: Mapping[str, tuple[Attack, bool]]
    eps: tuple[float, ...]
    common: Mapping[str, Any]
    steps: int
    minimal_steps: int
    object_sizes: tuple[float, float]
    examples: int
    surrogate: Any
    names: Sequence[str] | None

    def name(self, number: int) -> str:
        """Name of an image."""
        if self.names is None:
            return f"{number:06d}"
        if number >= len(self.names):
            raise ValueError(f"`names` has {len(self.names)} names. Expected one for each image.")
        return str(self.names[number])

    @property
    def described(self) -> dict[str, Any]:
        """What a reader of the report should know of it."""
        return {
            **{name: value for name, value in self.common.items() if name != "jit_compile"},
            "attacks": list(self.attacks),
            "steps": self.steps,
            "minimal_steps": self.minimal_steps,
            "object_sizes": list(self.object_sizes),
        }


def evaluate_robustness(
    model: Any,
    dataset: Iterable[Any],
    attacks: Sequence[str | Attack] | Mapping[str, Attack] = DEFAULT_ATTACKS,
    eps: Sequence[float] = DEFAULT_EPS,
    *,
    steps: int = 20,
    minimal_steps: int = 100,
    ignore_label: int | None = None,
    success_rate: float = 0.99,
    bounds: tuple[float, float] = (0.0, 1.0),
    from_logits: bool | None = None,
    quantize: bool = False,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    object_sizes: tuple[float, float] = (64, 512),
    surrogate: Any = None,
    examples: int = 4,
    seed: int = 0,
    jit_compile: bool = False,
    progress: Callable[[int], None] | None = None,
) -> RobustnessReport:
    """Attack a model in several ways and report the worst, image by image.

    For each eps the worst case of an image is the attack that leaves fewest right pixels,

        accuracy(eps) = mean over images of min over attacks of accuracy(f(x + d_attack)),

    since each attack alone overestimates robustness, and different models fall to different ones
    (Croce et al., ECCV 2024). Attacks of minimal norm give, from one run, the survival curve: the
    share of images whose smallest successful change is larger than eps; failures count as
    infinite. Their images join the worst case of each eps that they stay below.

    The report says by itself where it should not be trusted: `report.checks` looks for masked
    gradients (accuracy that rises with eps, an attack without limit that fails, images without
    gradient, noise or a transferred attack stronger than a white-box one, a minimal norm above
    what another attack needed).

    Args:
        model: a Keras model of one input and one output, see `attacks.pgd`.
        dataset: batches `(images, labels)` or `(images, labels, weights)`: a `tf.data.Dataset` or
            any iterable. Pixels of weight 0 and negative labels are void.
        attacks: names of this room's attacks, or functions with the same interface, or a mapping
            of names to such. A function without the argument `eps` is one of minimal norm.
        eps: sizes, in units of the model's input, increasing.
        steps: gradient evaluations of each attack of fixed eps.
        minimal_steps: gradient evaluations of each attack of minimal norm.
        ignore_label: id of void pixels, besides negative ones.
        success_rate: share of valid pixels that an attack of minimal norm must flip.
        bounds: least and greatest value of the model's input.
        from_logits: see `attacks.pgd`.
        quantize: round adversarial images to 8 bits before they are judged.
        classes: names; "class 0" and so on by default.
        names: of the images, in order; their numbers by default.
        object_sizes: greatest number of pixels of a small and of a medium object.
        surrogate: another model, whose adversarial images are tried on this one; None leaves
            that check out, and the report says so.
        examples: images that are kept for the report's page.
        seed: of random draws.
        jit_compile: see `attacks.pgd`.
        progress: called with the number of images that are done, after each batch.

    Raises:
        ValueError: no batch, an unknown attack, eps that do not increase, or what `attacks.pgd`
            refuses.
        TypeError: as `attacks.pgd`.

    Example:
        ```python
        report = evaluate_robustness(model, [(images, masks)], ["segpgd", "alma_prox"])
        print(report.text())
        keras_robustseg.report.write_robustness(report, "robustness")  # tables and a page
        ```
    """
    common = {
        "ignore_label": ignore_label,
        "success_rate": success_rate,
        "bounds": bounds,
        "from_logits": from_logits,
        "quantize": quantize,
        "seed": seed,
        "jit_compile": jit_compile,
    }
    setting = Setting(
        named_attacks(attacks),
        checked_eps(eps),
        common,
        steps,
        minimal_steps,
        object_sizes,
        examples,
        surrogate,
        names,
    )
    record = Record()
    for batch in dataset:
        _take(record, model, batch, setting)
        if progress is not None:
            progress(len(record.names))
    if record.probe is None:
        raise ValueError("`dataset` gave no batch. Expected (images, labels) at least once.")
    return _report(record, record.probe, setting, classes)


def _report(
    record: Record, probe: Probe, setting: Setting, classes: Sequence[str] | None
) -> RobustnessReport:
    count = len(record.tallies[CLEAN, 0.0].counts[0])
    names = tuple(classes) if classes is not None else tuple(f"class {k}" for k in range(count))
    if len(names) != count:
        raise ValueError(f"`classes` must name the {count} classes of the model. Received: {names}")
    fixed = [name for name, (_, has_eps) in setting.attacks.items() if has_eps]
    checks = run_checks(record.tallies, record.minimal, fixed, probe, setting.eps, setting.common)
    return RobustnessReport(
        names,
        setting.eps,
        record.tallies,
        record.minimal,
        tuple(record.names),
        tuple(checks),
        tuple(record.examples),
        setting.described,
    )


def named_attacks(attacks: Any) -> dict[str, tuple[Attack, bool]]:
    """Return attacks by name, each with whether it is one of fixed eps.

    Raises:
        ValueError: an unknown name, or none at all.
    """
    from keras_robustseg import attacks as room

    items = attacks.items() if isinstance(attacks, Mapping) else [(None, a) for a in attacks]
    found: dict[str, tuple[Attack, bool]] = {}
    for name, attack in items:
        if isinstance(attack, str):
            if attack not in ATTACK_NAMES:
                raise ValueError(
                    f"`attacks`: unknown attack {attack!r}. Expected some of "
                    f"{', '.join(ATTACK_NAMES)}, or functions."
                )
            name, attack = name or attack, getattr(room, attack)
        name = str(name or getattr(attack, "__name__", type(attack).__name__))
        if name in (CLEAN, NOISE, TRANSFER, WORST):
            raise ValueError(f"`attacks`: the name {name!r} has a meaning here; choose another.")
        found[name] = (attack, "eps" in inspect.signature(attack).parameters)
    if not found:
        raise ValueError("`attacks` is empty. Expected at least one attack.")
    return found


def checked_eps(eps: Sequence[float]) -> tuple[float, ...]:
    """Return the sizes; they must be positive and increase."""
    sizes = tuple(float(e) for e in eps)
    if not sizes or sizes[0] <= 0 or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"`eps` must be positive and increase. Received: {list(eps)}")
    return sizes


def _take(record: Record, model: Any, batch: Any, setting: Setting) -> None:
    """Attack one batch in every way and count what is left."""
    images, labels = _unpacked(batch)
    problem = prepare(model, images, labels, **setting.common)
    classes = problem.network.classes
    ids = np.where(problem.valid.numpy(), problem.labels.numpy(), -1).reshape(images.shape[:-1])
    objects = [objects_by_size(one, classes, setting.object_sizes) for one in ids]

    def count(key: tuple[str, float], predictions: np.ndarray) -> None:
        for one, label, parts in zip(predictions, ids, objects, strict=True):
            record.add(key, confusion(one, label, classes), hits_by_size(one, parts))

    clean = class_map(problem, images).reshape(ids.shape)
    count((CLEAN, 0.0), clean)
    shown: dict[str, AttackResult] = {}
    for name, (attack, fixed) in setting.attacks.items():
        if fixed:
            for size in setting.eps:
                shown[name] = _fixed(attack, model, images, ids, size, setting)
                count((name, size), shown[name].predictions)
        else:
            found = attack(model, images, ids, steps=setting.minimal_steps, **setting.common)
            record.minimal.setdefault(name, []).extend(found.minimal_norm.tolist())
            for size in setting.eps:
                inside = (found.norm <= size).reshape(-1, *[1] * (ids.ndim - 1))
                count((name, size), np.where(inside, found.predictions, clean))
            shown[name] = found
    _baselines(problem, images, setting, count)
    _remember(record, images, ids, clean, shown, setting)
    if record.probe is None:
        record.probe = Probe(model, images, ids)


def _fixed(
    attack: Attack, model: Any, images: np.ndarray, ids: np.ndarray, size: float, setting: Setting
) -> AttackResult:
    return attack(model, images, ids, eps=size, steps=setting.steps, **setting.common)


def _unpacked(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a batch, pixels of weight 0 made void."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise ValueError(
            "`dataset` must give (images, labels) or (images, labels, weights). Received: "
            f"{type(batch).__name__}"
        )
    images, labels = batch[0], np.asarray(batch[1])
    if isinstance(images, Mapping):
        images = images["image"]
    if len(batch) == 3 and batch[2] is not None:
        weight = np.asarray(batch[2])
        weight = weight.reshape(weight.shape + (1,) * (labels.ndim - weight.ndim))
        labels = np.where(weight == 0, -1, labels.astype("int64"))
    return np.asarray(images), labels


def _baselines(problem: Any, images: np.ndarray, setting: Setting, count: Callable) -> None:
    """Noise of the size of the attack, and what another model's attack does to this one."""
    rng = np.random.default_rng(setting.common["seed"])
    low, high = problem.bounds
    for size in setting.eps:
        noise = rng.choice([-size, size], images.shape)
        noisy = np.clip(images + noise, low, high).astype(images.dtype)
        count((NOISE, size), class_map(problem, noisy).reshape(images.shape[:-1]))
        if setting.surrogate is not None:
            ids = np.where(problem.valid.numpy(), problem.labels.numpy(), -1)
            ids = ids.reshape(images.shape[:-1])
            attack = next((a for a, fixed in setting.attacks.values() if fixed), None)
            if attack is not None:
                moved = _fixed(attack, setting.surrogate, images, ids, size, setting).adversarial
                count((TRANSFER, size), class_map(problem, moved).reshape(ids.shape))


def _remember(
    record: Record,
    images: np.ndarray,
    ids: np.ndarray,
    clean: np.ndarray,
    shown: Mapping[str, AttackResult],
    setting: Setting,
) -> None:
    """Number the images of a batch, and keep the first of them to look at."""
    for n in range(len(images)):
        name = setting.name(len(record.names))
        record.names.append(name)
        if len(record.examples) < setting.examples:
            attacked = {a: (r.adversarial[n], r.predictions[n]) for a, r in shown.items()}
            record.examples.append(Example(name, images[n], ids[n], clean[n], attacked))
