"""What the model with a pretrained decoder says of real photographs: `foveate demo build` makes it, this asks it.

    pip install scikit-image      # carries four of the six photographs; without it two are asked about
    python benchmarks/photographs.py

It learned drawn scenes, so nothing here is right by more than chance. The answers are written as they come.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from common import save
from PIL import Image
from rich.console import Console

from foveate import demo
from foveate.measure.facts import facts
from foveate.measure.scenes import prompt_of, written_together

SHAPE = "smollm2"
PICTURES = {
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "skimage/data": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
}
QUESTIONS = ("what do you see?", "what colour is the object?", "how many objects are there?", "is there a sign?", "what does the sign say?")


def photographs() -> dict[str, Path]:
    """The photographs of the packages that are installed, by name."""
    found = {}
    for folder, names in PICTURES.items():
        package, _, rest = folder.partition("/")
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found |= {name: path for name in names if (path := Path(spec.origin).parent / rest / name).is_file()}
    return found


def main() -> None:
    """Ask every question of every photograph and write benchmarks/results/photographs.json."""
    model, processor = demo.load(shape=SHAPE)
    texts = [prompt_of(processor, question) for question in QUESTIONS]
    answers = {}
    for name, path in photographs().items():
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        inputs = processor(images=[image] * len(texts), text=texts, padding=True, return_tensors="pt").to(dtype=model.dtype)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers[name] = dict(zip(QUESTIONS, map(written_together, said), strict=True))
    path = save("photographs", {"facts": facts(model), "answers": answers})
    Console(stderr=True).print(f"written: {path}")


if __name__ == "__main__":
    main()
