"""`foveate models`: what can be compressed."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.cli import console
from foveate.cli.options import JsonOption

__all__ = ["ListModels"]

WORLD = "knows its own scenes, not the world"


@dataclass(frozen=True, kw_only=True)
class ListModels(JsonOption):
    """List the models that can be compressed."""

    def run(self) -> None:
        """Print the support matrix, the embedded models first, and why other models are refused."""
        from foveate.chat.models import DEMO
        from foveate.demo import BUILT
        from foveate.families import REFUSED, support
        from foveate.families.support import PROMPTS, SIGNALS

        rows, embedded = support(), _embedded()
        built = {f"{DEMO}-{shape}": shape for shape in BUILT}
        if self.as_json:
            models, buildable = ([{"name": name, "shape": shape} for name, shape in found.items()] for found in (embedded, built))
            families = [row.to_dict() for row in rows]
            lists = {"embedded_models": models, "built_models": buildable, "families": families}
            console.put_json({"embedded": DEMO, **lists, "refused": REFUSED})
            return
        what = [(name, "", f"embedded model in the shape of {shape}; {WORLD}") for name, shape in embedded.items()]
        what += [(name, "", f"embedded model with a pretrained decoder, after foveate demo build; {WORLD}") for name in built]
        what += [(row.family, ", ".join(row.model_types), row.summary) for row in rows]
        console.put_table(console.listing(("family", "model types", "what it is"), what))
        console.put("")
        can = [(row.family, *row.cells()[2:]) for row in rows]
        console.put_table(console.listing(("family", *PROMPTS, *(name.replace("_", " ") for name in SIGNALS)), can))
        console.put("")
        console.put_table(console.listing(("refused", "because"), list(REFUSED.items())))
        console.put("name any model of these types by its folder or Hugging Face id: foveate ask --model ...", style="dim")


def _embedded() -> dict[str, str]:
    """The shape of each embedded model, by the name that --model takes."""
    from foveate import demo
    from foveate.chat.models import DEMO

    first, *others = demo.FOLDERS
    return {DEMO: first, **{f"{DEMO}-{shape}": shape for shape in others}}
