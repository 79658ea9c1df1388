"""A method of your own: written in five lines, tried without a model and then with one, and used by name."""

from dataclasses import dataclass

import torch
from torch import Tensor

import foveate
import foveate.demo
from foveate.demo import scenes


@foveate.register
@dataclass(frozen=True)
class LargestNorm(foveate.Method):
    """Keeps the tokens whose hidden states have the largest norm."""

    def score(self, view: foveate.View) -> Tensor:
        return view.states.float().norm(dim=-1)


def main() -> None:
    view = foveate.View(states=torch.randn(16, 8), grid=(1, 4, 4))
    print("by hand:", LargestNorm(keep=4).plan(view).kept.tolist())

    model, processor = foveate.demo.load()
    scene = scenes.scene(3, split="held_out")
    inputs = processor(images=scene.image, text=foveate.demo.prompt(scene.questions[0].text), return_tensors="pt")
    with foveate.compress(model, foveate.parse_method("largestnorm:keep=0.25")) as handle:
        model.generate(**inputs, max_new_tokens=8, do_sample=False)
        print(handle.report)


if __name__ == "__main__":
    main()
