"""A schedule of two cuts, and a second question on the same key/value cache."""

import torch

import foveate
import foveate.demo
from foveate.demo import scenes


def main() -> None:
    model, processor = foveate.demo.load()
    scene = scenes.scene(3, split="held_out")
    first, second = scene.questions[0].text, scene.questions[1].text
    inputs = processor(images=scene.image, text=foveate.demo.prompt(first), return_tensors="pt")
    schedule = [foveate.TokenCarve(keep=192, layer=2), foveate.FastV(keep=64, layer=5)]

    with foveate.compress(model, schedule) as handle:
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True)
        print(handle.report)
        for image in handle.report.images:
            print("tokens:", image.tokens_before, *(f"-> {stage.plan.tokens_after} (layer {stage.layer})" for stage in image.stages))

        # The cache stands for the whole prompt, although most of its visual tokens are gone: only new ids are fed.
        follow_up = processor.tokenizer(" USER: " + second + " ASSISTANT:", return_tensors="pt", add_special_tokens=False)["input_ids"]
        ids = torch.cat([out.sequences, follow_up], dim=1)
        again = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=out.past_key_values, max_new_tokens=8, do_sample=False
        )
        print(second, "->", processor.decode(again[0, ids.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
