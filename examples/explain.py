"""Which visual tokens the answer rests on: where the largest ones lie, and whether they are enough to answer."""

import foveate
import foveate.demo
from foveate import draw
from foveate.demo import scenes


def main() -> None:
    model, processor = foveate.demo.load()
    scene = scenes.scene(11, split="held_out")
    question = "what does the sign say?"
    inputs = processor(images=scene.image, text=foveate.demo.prompt(question), return_tensors="pt")

    found = foveate.relevance(model, inputs, max_new_tokens=8)
    image, answer = found.images[0], processor.decode(found.answers[0])
    print(question, "->", answer)
    largest = image.mean.argsort(descending=True)[:20].tolist()
    print(f"the 20 largest of {len(image.mean)} tokens hold {image.mean[largest].sum() / image.mean.sum():.0%} of the relevance")
    print("rows and columns:", sorted((token // image.grid[2], token % image.grid[2]) for token in largest))

    picture = draw.relevance(found, scene.image, question=question, answer=answer, model=model, processor=processor)
    print("a picture of", picture.size, "pixels; picture.save('relevance.png') writes it")


if __name__ == "__main__":
    main()
