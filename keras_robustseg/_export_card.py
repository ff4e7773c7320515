"""The model card: what an exported model is, knows, and how it is called."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class CardFacts(NamedTuple):
    """What the card tells."""

    name: str
    input_shape: tuple[int | None, ...]
    parameters: int
    classes: Sequence[str]
    formats: Sequence[str]
    parity: Mapping[str, float | None]
    recipe: Mapping[str, Any] | None
    metrics: Mapping[str, Any] | None
    extra: Mapping[str, str]

    @property
    def pictures(self) -> bool:
        """Whether encoded pictures are served."""
        served = "saved_model" in self.formats
        return served and len(self.input_shape) == 3 and self.input_shape[-1] in (1, 3)


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, beginning with the header that model hubs read."""
    sections = {
        "What it is": _what(facts),
        "Classes": _classes(facts),
        **facts.extra,
        "Scores": _scores(facts),
        "Limits": _limits(facts),
        "Use it from Python": _python(facts),
        "Use it over REST": _rest(facts),
        "Files": _files(facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    header = "---\nlibrary_name: keras\npipeline_tag: image-segmentation\n---"
    return f"{header}\n\n# {facts.name}\n\n{body}\n"


def _what(facts: CardFacts) -> str:
    *sizes, channels = facts.input_shape
    axes = " x ".join("any" if size is None else str(size) for size in sizes)
    recipe = (facts.recipe or {}).get("name")
    trained = f" It was trained by the recipe `{recipe}` (see `recipe.yaml`)." if recipe else ""
    return (
        f"A {len(sizes)}-D segmentation network of {facts.parameters:,} parameters, trained with "
        f"keras_robustseg on masks that may be wrong in places.{trained}\n\n"
        f"Input: float32 images of size {axes} with {channels} channel(s), in the intensities of "
        "the training images. Output per pixel: class probabilities, the most probable class, "
        "and the entropy of the probabilities in nats (0 is sure; ln of the number of classes is "
        "undecided)."
    )


def _classes(facts: CardFacts) -> str:
    rows = "\n".join(f"| {index} | {name} |" for index, name in enumerate(facts.classes))
    return f"| value in the mask | class |\n|---|---|\n{rows}"


def _scores(facts: CardFacts) -> str:
    rows = [
        f"| {name} | {'undefined' if math.isnan(value) else format(value, '.4g')} |"
        for name, value in _figures(facts.metrics or {})
    ]
    if not rows:
        return "None were given."
    return "| figure | value |\n|---|---|\n" + "\n".join(rows) + "\n\nAll are in `metrics.json`."


def _figures(metrics: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings, by dotted names."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{path}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{path}{key}", value


def _limits(facts: CardFacts) -> str:
    lines = [
        "It knows images like those it was trained on; on others its probabilities mean little.",
        "Scores are measured against the masks of the data named above, which are not the truth.",
        "It is research software, not a medical device, and must not guide the care of a patient.",
    ]
    if "saved_model" in facts.formats and not facts.pictures:
        lines.append(
            "It takes arrays only: encoded pictures (`serve_png`) need 2-D images with one or "
            "three channels."
        )
    return "\n".join(f"- {line}" for line in lines)


def _python(facts: CardFacts) -> str:
    if "saved_model" not in facts.formats:
        return ""
    ones = ", ".join(str(size or 64) for size in facts.input_shape[:-1])
    lines = [
        "import tensorflow as tf",
        f'model = tf.saved_model.load("{facts.name}")',
        f"images = tf.zeros((1, {ones}, {facts.input_shape[-1]}))",
        'result = model.signatures["serving_default"](images=images)',
        'result["probabilities"], result["mask"], result["entropy"]',
    ]
    if facts.pictures:
        lines += [
            "",
            'encoded = tf.constant([tf.io.read_file("image.png").numpy()])',
            'result = model.signatures["serve_png"](images=encoded)',
            'tf.io.write_file("mask.png", result["mask_png"][0])',
        ]
    text = "TensorFlow is all it needs.\n\n```python\n" + "\n".join(lines) + "\n```"
    return text + ("\n\n" + _pictures() if facts.pictures else "")


def _pictures() -> str:
    return (
        "`serve_png` reads PNG (8 or 16 bits) and JPEG, turns grey into colour or back as the "
        "network needs, and feeds the stored values (0 to 255, or 0 to 65535) unscaled. The "
        "images of one call must be equal in size. The mask PNG holds the class index as grey."
    )


def _rest(facts: CardFacts) -> str:
    if "saved_model" not in facts.formats:
        return ""
    text = (
        f"Serve this folder as version 1 of a model, for instance as `/models/{facts.name}/1` of "
        f"TensorFlow Serving, and POST to `/v1/models/{facts.name}:predict`:\n\n"
        '```json\n{"signature_name": "serving_default", "instances": [[[[0.0]]]]}\n```\n\n'
        "where each instance is one image as nested lists, the channel innermost."
    )
    if facts.pictures:
        text += (
            " Pictures travel as base64; `serve_png_json` is `serve_png` with the mask under "
            "`mask_png_bytes`, a name that makes the server send it as base64 too:\n\n"
            '```json\n{"signature_name": "serve_png_json", '
            '"instances": [{"images": {"b64": "iVBORw0KGgo..."}}]}\n```'
        )
    return text


def _files(facts: CardFacts) -> str:
    lines = {
        "saved_model": "`saved_model.pb`, `variables/`: the SavedModel",
        "onnx": "`model.onnx`: the same graph for ONNX runtimes",
        "litert": "`model.tflite`: one image of a fixed size, for LiteRT",
    }
    rows = []
    for form in facts.formats:
        difference = facts.parity.get(form)
        checked = "not run here" if difference is None else f"largest difference {difference:.1e}"
        rows.append(f"- {lines[form]} (probabilities against Keras on a test image: {checked})")
    rows.append("- `manifest.json`: SHA-256 of every file; `verify_export` checks them")
    return "\n".join(rows)
