"""An audit as one HTML file: no script, style, font or picture comes from anywhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ._audit_bias import GENERAL
from ._audit_report import CLASS_COLUMNS, CONFUSION_COLUMNS, READER_COLUMNS, AuditReport, cell
from ._html_picture import Picture, colour
from ._html_style import SCRIPT, STYLE
from ._objects import KINDS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_KIND_NAMES = {
    "missing": "missing object",
    "extra": "extra object",
    "wrong_class": "object of another class",
    "too_large": "drawn too large",
    "too_small": "drawn too small",
    "shape": "another shape",
}


def page(report: AuditReport, pictures: Sequence[Picture]) -> str:
    """Return the page: what was found in words, tables, and the worst masks, which can be filtered.

    Args:
        report: the tables.
        pictures: the worst masks, the worst first.

    Example:
        `Path("audit.html").write_text(page(report, pictures))`
    """
    total = report.summary
    title = f"Audit of masks: {total['data']}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f'<a class="skip" href="#masks">Skip to the masks</a><header><h1>{escape(title)}</h1>',
            *_opening(total),
            "</header><main>",
            _suspicions(report),
            *_tables(report),
            *_masks(report, pictures),
            f"</main><script>{SCRIPT}</script></body></html>",
            "",
        ]
    )


def _opening(total: Mapping[str, Any]) -> list[str]:
    lines = [
        f"<p>{total['masks']} masks of {total['images']} images; {total['wrong_pixels']:,} of "
        f"{total['pixels']:,} pixels ({total['wrong_share']:.2%}) and {total['objects']:,} objects "
        f"look wrong (method: {escape(total['method'])}). {escape(total['origin'])}</p>"
    ]
    if total["rendered_images"]:
        lines.append(
            '<p class="note"><strong>The images are rendered by software, not photographed or '
            "scanned.</strong></p>"
        )
    if total["notice"]:
        lines.append(f'<p class="small">{escape(total["notice"])}</p>')
    return lines


def _suspicions(report: AuditReport) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in report.statements)
    return (
        "<section><h2>Masks that are all too large or too small</h2>"
        f"<p>{escape(GENERAL)}</p><ul>{items}</ul></section>"
    )


def _tables(report: AuditReport) -> list[str]:
    parts = [_table("Classes", CLASS_COLUMNS, report.classes)]
    if report.confusions:
        parts.append(
            _table(
                "Pixels given as one class, suggested as another",
                CONFUSION_COLUMNS,
                report.confusions,
            )
        )
    if report.readers:
        parts.append(_table("Readers", READER_COLUMNS, report.readers))
    return parts


def _table(title: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(row[name]))}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    return (
        f'<section><h2>{escape(title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _masks(report: AuditReport, pictures: Sequence[Picture]) -> list[str]:
    total = report.summary
    count = f"The {len(pictures)} that look worst of {total['masks']}; all of them in images.csv."
    return [
        f'<section id="masks"><h2>Masks</h2><p>{count} {escape(_panels(pictures, total))}</p>',
        _legend(total["classes"]),
        _filters(total["classes"]),
        '<p id="count" role="status" aria-live="polite"></p><div id="cards">',
        *(_card(picture, total) for picture in pictures),
        "</div></section>",
    ]


def _panels(pictures: Sequence[Picture], total: Mapping[str, Any]) -> str:
    image = "the rendered image" if total["rendered_images"] else "the image"
    first = f"{image}, " if any(picture.has_image for picture in pictures) else ""
    return (
        f"From left to right: {first}the given mask, the suggested mask with the pixels hatched "
        "that look wrong. Void is greyed."
    )


def _legend(classes: Sequence[str]) -> str:
    items = "".join(
        f'<li><span class="swatch" style="background:rgb{colour(k)}"></span>{escape(name)}</li>'
        for k, name in enumerate(classes[1:], start=1)
    )
    return f'<ul class="legend" aria-label="Colours of the outlines">{items}</ul>'


def _filters(classes: Sequence[str]) -> str:
    names = "".join(
        f'<option value="{k}">{escape(name)}</option>'
        for k, name in enumerate(classes[1:], start=1)
    )
    kinds = "".join(f'<option value="{kind}">{_KIND_NAMES[kind]}</option>' for kind in KINDS)
    return (
        '<form id="filters" hidden><label>Class <select id="class"><option value="">all</option>'
        f'{names}</select></label> <label>Kind <select id="kind"><option value="">all</option>'
        f"{kinds}</select></label> <label>Severity at least "
        '<input id="least" type="number" min="0" max="1" step="0.05" value="0"></label> '
        '<label>Name contains <input id="name" type="search"></label></form>'
    )


def _card(picture: Picture, total: Mapping[str, Any]) -> str:
    row = picture.row
    name = str(row["id"]) + ("" if row["reader"] is None else f", reader {row['reader']}")
    where = "" if picture.cut is None else f", slice {picture.cut}"
    found = Counter(kind for kind, *_ in picture.objects)
    kinds = "; ".join(f"{count} {_KIND_NAMES[kind]}" for kind, count in found.items()) or "none"
    facts = (
        f"severity {row['severity']:.3f}, worst class {row['worst_class']}, "
        f"{row['wrong_pixels']} wrong pixels ({row['wrong_share']:.2%})"
    )
    rendered = "Rendered image. " if total["rendered_images"] and picture.has_image else ""
    described = f"{rendered}{name}{where}: {facts}; objects: {kinds}"
    return (
        f'<article class="card" data-severity="{row["severity"]:.6f}" data-name="{escape(name)}" '
        f'data-classes="{" ".join(map(str, picture.classes))}" data-kinds="{" ".join(found)}">'
        f"<h3>{row['rank']}. {escape(name)}{where}</h3>"
        f'<img loading="lazy" src="{picture.uri()}" alt="{escape(described)}">'
        f"<p>{rendered}{escape(facts)}. Objects: {kinds}.</p></article>"
    )
