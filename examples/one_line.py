"""The one line: compress, and everything else in a transformers script stays.

python examples/one_line.py                                   # the embedded model, offline
python examples/one_line.py PATH_OR_HUB_ID picture.jpg "What is on the table?"
"""

import sys

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import foveate
import foveate.demo
from foveate.demo import scenes


def main() -> None:
    if len(sys.argv) == 4:
        path, picture, question = sys.argv[1], Image.open(sys.argv[2]).convert("RGB"), sys.argv[3]
    else:
        scene = scenes.scene(3, split="held_out")
        path, picture, question = str(foveate.demo.path()), scene.image, scene.questions[0].text

    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(path)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=picture, text=prompt, return_tensors="pt")

    handle = foveate.compress(model, foveate.TokenCarve(keep=128))
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)

    print(question, "->", processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    print(handle.report)
    handle.remove()


if __name__ == "__main__":
    main()
