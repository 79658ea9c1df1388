"""Questions about no picture: fifty that test whether the decoder's own skills survive, and others that keep them alive in training.

    python -m foveate.recipe.smollm2.texts FOLDER OUT.json

asks the untouched decoder in FOLDER (a converted one, with its tokenizer) all of them and writes its answers.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from foveate.files.checkpoints import pretrained
from foveate.files.writing import write_whole
from foveate.recipe.smollm2.language import chat

LONGEST = 40  # tokens of an answer

_TESTED = """
What is the capital of France?|paris
What is the capital of Italy?|rome
What is the capital of Japan?|tokyo
What is the capital of Spain?|madrid
What is the capital of Germany?|berlin
What is the capital of Egypt?|cairo
What is the capital of Greece?|athens
What is the capital of Russia?|moscow
What is the capital of China?|beijing
What is the capital of England?|london
What is 2 plus 2?|4,four
What is 5 plus 3?|8,eight
What is 10 minus 4?|6,six
What is 3 times 3?|9,nine
How many days are in a week?|7,seven
How many months are in a year?|12,twelve
How many legs does a spider have?|8,eight
How many hours are in a day?|24
How many minutes are in an hour?|60,sixty
How many legs does a dog have?|4,four
What colour is the sky on a clear day?|blue
What color is grass?|green
What color is snow?|white
What color do you get if you mix blue and yellow?|green
What is the opposite of hot?|cold
What is the opposite of big?|small,little
What is the opposite of up?|down
What is the opposite of day?|night
What is the largest planet in the solar system?|jupiter
Which planet is known as the red planet?|mars
What is the largest ocean on Earth?|pacific
What is the chemical symbol for water?|h2o
What gas do humans need to breathe?|oxygen
At what temperature in Celsius does water boil?|100
At what temperature in Celsius does water freeze?|0,zero
What is the frozen form of water called?|ice
Which star is closest to the Earth?|sun
What is the name of the natural satellite of the Earth?|moon
What do bees make?|honey
What animal says meow?|cat
What is a baby dog called?|puppy
What is the fastest land animal?|cheetah
Who wrote Romeo and Juliet?|shakespeare
Who painted the Mona Lisa?|vinci,leonardo
Who was the first president of the United States?|washington
In which country is the Eiffel Tower?|france
What language is spoken in Brazil?|portuguese
What is the currency of the United Kingdom?|pound
On which continent is Kenya?|africa
What is the plural of mouse?|mice
"""

_KEPT_ALIVE = """
What is the capital of {}?|Portugal,Austria,Norway,Sweden,Poland,Canada,Australia,Cuba,Peru,Chile,India,Turkey,Ireland
What is the capital of {}?|Finland,Denmark
What is {}?|1 plus 1,4 plus 5,7 minus 2,2 times 6,9 plus 1,gravity,a volcano,photosynthesis,a triangle,the internet,democracy
What is {}?|an atom,music,a verb
What is the opposite of {}?|fast,light,happy,young,open,left,early,full,wet,rich,strong,easy,near,long,good
What colour is {}?|a ripe tomato,a lemon,coal,milk,an orange,chocolate,a ruby,a flamingo,the sea,an emerald
How many {} are there?|letters in the English alphabet,days in January,wheels on a car,sides of a square
How many {} are there?|players in a football team,seconds in a minute
Name three {}.|fruits,vegetables,animals,countries in Europe,colours,sports,musical instruments,metals,rivers,planets,trees
Name three {}.|languages
Who {}?|discovered penicillin,invented the telephone,wrote Hamlet,painted Guernica,was Albert Einstein,was Cleopatra
Who {}?|composed the Ninth Symphony
Write one sentence about {}.|the sea,winter,a dog,a friend,cooking,the moon,trains,a garden,books,rain,coffee,mountains
Write one sentence about {}.|a city,birds,school
Why {}?|is the sky blue,do leaves fall in autumn,do we sleep,does ice float,do birds migrate,is exercise good
Why {}?|do we have seasons,is the sea salty
Where {}?|is Mount Everest,do penguins live,is the Amazon river,do camels live,is the Great Wall,is the Sahara
Where {}?|was pizza invented
Translate into French: {}.|good morning,thank you,the cat,a house,I am hungry
Explain in one sentence what {} is.|a computer,a whale,an island,a library,electricity,a map,a hammer,a poem,a bank,a vaccine
Give a word that rhymes with {}.|cat,day,light,tree,song,sun
{}|Hello!,How are you?,Tell me a joke.,Thank you!,What can you do?,Who are you?,Give me a tip for better sleep.
{}|What should I cook tonight?,List two uses of a knife.,Is a whale a fish?,Is the sun a star?,Can a penguin fly?
{}|Is ice hotter than fire?,Do cats have tails?,Is seven an even number?
"""


def tested() -> list[tuple[str, tuple[str, ...]]]:
    """The fifty questions, each with the words one of which a right answer contains."""
    pairs = [line.rsplit("|", 1) for line in _TESTED.strip().splitlines()]
    return [(question, tuple(words.split(","))) for question, words in pairs]


def kept_alive() -> list[str]:
    """Other questions, whose answers by the untouched decoder are part of the training data."""
    lines = [line.split("|") for line in _KEPT_ALIVE.strip().splitlines()]
    return [pattern.format(word) for pattern, words in lines for word in words.split(",")]


def is_right(answer: str, words: Sequence[str]) -> bool:
    """Whether an answer contains one of the words as a whole."""
    return any(re.search(rf"\b{re.escape(word)}\b", answer.lower()) for word in words)


@torch.no_grad()
def answers(model: Any, tokenizer: Any, questions: Sequence[str], batch: int = 10) -> Iterator[str]:
    """What a decoder answers greedily, without any picture."""
    for start in range(0, len(questions), batch):
        prompts = [chat(question) for question in questions[start : start + batch]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
        out = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        yield from (text.strip() for text in tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True))


def asked(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What the untouched decoder answers to all questions; `test` with whether it is right, `train` to keep its skills alive."""
    given = list(answers(model, tokenizer, [question for question, _ in tested()]))
    test = [
        {"question": question, "words": words, "answer": answer, "right": is_right(answer, words)}
        for (question, words), answer in zip(tested(), given, strict=True)
    ]
    train = [[question, given] for question, given in zip(kept_alive(), answers(model, tokenizer, kept_alive()), strict=True)]
    return {"test": test, "train": train}


def main() -> None:
    """The command line of `python -m foveate.recipe.smollm2.texts`."""
    parser = argparse.ArgumentParser(prog="python -m foveate.recipe.smollm2.texts", description="Ask the untouched decoder.")
    parser.add_argument("decoder", type=Path, help="folder of the converted decoder")
    parser.add_argument("tokenizer", type=Path, help="folder of its tokenizer")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = pretrained(AutoModelForCausalLM, options.decoder, local_files_only=True)
    tokenizer = pretrained(AutoTokenizer, options.tokenizer, local_files_only=True)
    found = asked(model, tokenizer)
    write_whole(options.out, json.dumps(found, indent=1, ensure_ascii=False))
    print(sum(entry["right"] for entry in found["test"]), "of", len(found["test"]), "right")


if __name__ == "__main__":
    main()
