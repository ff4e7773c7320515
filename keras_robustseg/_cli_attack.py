"""What `robustseg attack` does; the same from Python is `keras_robustseg.attack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_robustseg._cli_audit import Split, is_run, require_network
from keras_robustseg.attacks._defaults import DEFAULT_ATTACKS, DEFAULT_EPS
from keras_robustseg.errors import DataError

if TYPE_CHECKING:
    from keras_robustseg.attacks import RobustnessReport


def attack(
    target: str | Path,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    split: str = "test",
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    eps: Sequence[float] = DEFAULT_EPS,
    steps: int = 20,
    minimal_steps: int = 100,
    limit: int | None = None,
    batch_size: int = 8,
    bounds: tuple[float, float] | None = None,
    surrogate: str | Path | None = None,
    ignore_label: int | None = None,
    success_rate: float = 0.99,
    quantize: bool = False,
    examples: int = 4,
    say: Callable[[str], None] | None = None,
) -> RobustnessReport:
    """Attack the network of a run, or an exported one, and write how robust it is.

    Args:
        target: directory of a run, or of a SavedModel that this package has exported.
        out: new or empty directory; by default `attack` in the run, or `NAME-attack` beside the
            SavedModel.
        data: recipe, folder or archive with the images; by default what the target was trained on.
        split: which images; masks are the truth where the data know it, else the given ones.
        attacks: names, see `attacks.evaluate_robustness`.
        eps: sizes as shares of the range of the images, increasing, at most 1.
        steps, minimal_steps: gradient evaluations of attacks of fixed eps, and of minimal norm.
        limit: use only so many images, the first ones.
        batch_size: images of one shape that are attacked together.
        bounds: least and greatest value that an image may have; by default those of the split.
        surrogate: another run or SavedModel, to transfer attacks from.
        ignore_label: class that does not count. With 0 only objects do: making every background
            pixel an object is beyond most networks, so no attack would count as a success.
        success_rate: share of the pixels that an attack of minimal norm must flip.
        quantize: round adversarial images to 8 bits before they are judged.
        examples: images on the page.
        say: called with a line of progress after each batch.

    Returns:
        The report; `text()` is what the command prints. `eps` in it are values of the images.

    Raises:
        DataError: there is no network at `target`, no image, or a setting is out of range.
        StateError: `out` is not empty.

    Example:
        `attack("runs/quickstart", limit=16).trustworthy`
    """
    if split not in list(Split):
        raise DataError(f"split: got {split!r}, expected one of {', '.join(Split)}")
    place = where_to_write(Path(target), out)
    from keras_robustseg._run_attack import Victim, run_attack

    victim = Victim.open(Path(target), data)
    other = None if surrogate is None else Victim.open(Path(surrogate), data).model
    return run_attack(
        victim,
        place,
        split=split,
        attacks=attacks,
        shares=eps,
        limit=limit,
        batch_size=batch_size,
        bounds=bounds,
        steps=steps,
        minimal_steps=minimal_steps,
        surrogate=other,
        ignore_label=ignore_label,
        success_rate=success_rate,
        quantize=quantize,
        examples=examples,
        say=say,
    )


def where_to_write(target: Path, out: str | Path | None = None) -> Path:
    """Return the directory of the report; refuse one in use before anything slow is done.

    Raises:
        DataError: there is nothing at `target`.
        StateError: the directory is not empty.
    """
    if not target.is_dir():
        raise DataError(f"{target}: no such directory, expected a run or an exported SavedModel")
    if not is_run(target) and not (target / "saved_model.pb").is_file():
        raise DataError(
            f"{target}: holds neither a run (recipe.json) nor a SavedModel (saved_model.pb)"
        )
    if is_run(target):
        require_network(target)
    if out is None:
        out = target / "attack" if is_run(target) else target.with_name(f"{target.name}-attack")
    from keras_robustseg.report._audit_write import check_free

    check_free(Path(out), "report")
    return Path(out)
