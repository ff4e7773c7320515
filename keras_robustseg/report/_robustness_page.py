"""The page of a report of robustness: one HTML file, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ._canvas import DARK, new_figure, png_bytes
from ._html import POLICY
from ._html_picture import draw_panels
from ._html_style import STYLE

if TYPE_CHECKING:
    from keras_robustseg.attacks import RobustnessReport
    from keras_robustseg.attacks._evaluate_report import Example

_MARKS = {True: "passed", False: "FAILED", None: "not looked at"}


def pictures(found: RobustnessReport) -> dict[str, bytes]:
    """Return the curves as PNG by name: accuracy and Dice by eps, survival by size."""
    drawn = {"curves": _curves(found)}
    return {**drawn, "survival": _survival(found)} if found.minimal else drawn


def robustness_page(
    found: RobustnessReport, drawn: Mapping[str, bytes], *, title: str, rendered: bool
) -> str:
    """Return the page.

    Args:
        found: the figures.
        drawn: `pictures` of it.
        title: heading.
        rendered: whether the images are rendered by software.
    """
    body = [
        f"<header><h1>{escape(title)}</h1>{_opening(found, rendered)}</header><main>",
        _section("Can this be trusted?", _checks(found)),
        _section(
            "Under attack", _picture(drawn["curves"], "Accuracy and Dice by eps"), _rows(found)
        ),
    ]
    if found.minimal:
        text = "Share of images that no attack of minimal norm has flipped, by size of the change."
        body.append(
            _section(
                "Survival", f"<p>{text}</p>", _medians(found), _picture(drawn["survival"], text)
            )
        )
    if found.examples:
        body.append(_section("Examples", *(_example(e, rendered) for e in found.examples)))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            *body,
            "</main></body></html>",
            "",
        ]
    )


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _opening(found: RobustnessReport, rendered: bool) -> str:
    low, high = found.setting["bounds"]
    text = (
        f"{len(found.names)} images, attacked by {', '.join(found.attacks)}. Sizes are changes of "
        f"the model's input, whose values lie in [{low:g}, {high:g}]. The worst case takes for "
        "each image the attack that leaves fewest right pixels."
    )
    note = "<p class='note'><strong>The images are rendered by software.</strong></p>"
    return f"<p>{escape(text)}</p>{note if rendered else ''}"


def _checks(found: RobustnessReport) -> str:
    rows = [(c.name, _MARKS[c.passed], c.detail) for c in found.checks]
    verdict = (
        "No sign of masked gradients was found."
        if found.trustworthy
        else "A check has failed: the figures below overestimate how robust the model is."
    )
    return f"<p class='note'>{verdict}</p>" + _table(("check", "result", "figures"), rows)


def _rows(found: RobustnessReport) -> str:
    sizes = list(found.rows()[0]["accuracy_by_object_size"])
    head = ["attack", "eps", "accuracy", "mean IoU", "mean Dice"]
    head += [*(f"{s} objects" for s in sizes), *(f"IoU {name}" for name in found.classes)]
    rows = [
        (
            row["attack"],
            f"{row['eps']:.4g}",
            *(_number(row[name]) for name in ("accuracy", "mean_iou", "mean_dice")),
            *(_number(row["accuracy_by_object_size"][s]) for s in sizes),
            *(_number(value) for value in row["iou"].values()),
        )
        for row in found.rows()
    ]
    return _table(head, rows)


def _medians(found: RobustnessReport) -> str:
    rows = [(name, f"{norm:.4g}") for name, norm in found.median_minimal_norm.items()]
    return _table(("attack", "median minimal norm, failures infinite"), rows)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _picture(png: bytes, described: str) -> str:
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    return f'<img src="{uri}" alt="{escape(described)}">'


def _curves(found: RobustnessReport) -> bytes:
    """Accuracy and Dice by eps, a line an attack, the worst case thick.

    Where objects are small, accuracy hardly moves and Dice tells what happens.
    """
    figure = new_figure(9.6, 3.6)
    rows, clean = found.rows(), found.clean
    names = list(dict.fromkeys(row["attack"] for row in rows if row["attack"] != "clean"))
    for place, key in enumerate(("accuracy", "mean_dice"), start=1):
        axes = figure.add_subplot(1, 2, place)
        for n, name in enumerate(names):
            points = sorted((row["eps"], row[key]) for row in rows if row["attack"] == name)
            sizes, values = zip((0.0, clean[key]), *points, strict=True)
            look = ("black", 3) if name == "worst" else (DARK[n % len(DARK)], 1.5)
            axes.plot(sizes, values, ".-", color=look[0], linewidth=look[1], label=name)
        axes.set(xlabel="eps", ylabel=key.replace("_", " "), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return png_bytes(figure)


def _survival(found: RobustnessReport) -> bytes:
    figure = new_figure(6.4, 3.2)
    axes = figure.add_subplot()
    points = found.survival()
    if points:
        sizes, shares = zip(*points, strict=True)
        axes.step(sizes, shares, where="post", color=DARK[0])
    axes.set(xlabel="size of the change", ylabel="share of images", ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    return png_bytes(figure)


def _example(example: Example, rendered: bool) -> str:
    """The clean image with its labels and prediction, then each attacked one with its own."""
    parts = [
        _panel(example, example.image, example.labels, "labels", rendered),
        _panel(example, example.image, example.predicted, "prediction", rendered),
    ]
    for attack, (image, predicted) in example.attacked.items():
        parts.append(_panel(example, image, predicted, f"{attack}: prediction", rendered))
    return f'<h3>Image {escape(example.name)}</h3><div id="cards">{"".join(parts)}</div>'


def _panel(
    example: Example, image: np.ndarray, classes: np.ndarray, what: str, rendered: bool
) -> str:
    mask = np.where(example.labels < 0, -1, classes)
    described = f"{'Rendered image' if rendered else 'Image'} {example.name}, {what}"
    picture = _picture(draw_panels(image, mask, reference=example.labels), described)
    return f'<figure class="card">{picture}<figcaption>{escape(what)}</figcaption></figure>'
