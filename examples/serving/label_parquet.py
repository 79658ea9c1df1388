"""Answer a Parquet file of images and questions with several engines of vLLM, each in a worker of Ray Data.

    foveate export vllm llava-hf/llava-1.5-7b-hf served --keep 128
    python examples/serving/label_parquet.py questions.parquet answers --model served --workers 2

The input has the columns `id` (unique), `image` (bytes of a picture file, or a struct with them as `bytes`) and `question`. The output is a
folder of Parquet files with `id`, `answer` and `error`, one of which is null. Each file appears whole. A worker that dies is replaced, and
its rows are asked again. The same command resumes a stopped job: rows that have an answer are not asked again.

Needs `pip install 'foveate[vllm]' 'ray[data]'`. Each worker takes a GPU; `--gpus 0` runs on CPUs.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

# A worker is one process, so that nothing of it remains when it dies.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

from foveate.files.writing import clear, make_folder, whole

SCHEMA = pa.schema([("id", pa.string()), ("answer", pa.string()), ("error", pa.string())])


class Answerer:
    """One engine, which answers batches of rows."""

    def __init__(self, model: str, new_tokens: int, engine: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        self.llm = LLM(model, **engine)
        self.greedy = SamplingParams(max_tokens=new_tokens, temperature=0)

    def __call__(self, rows: pa.Table) -> pa.Table:
        answers, errors, chats = [None] * len(rows), [None] * len(rows), {}
        for place, row in enumerate(rows.to_pylist()):
            try:
                chats[place] = conversation(row["image"], row["question"])
            except (OSError, ValueError, TypeError, KeyError):
                errors[place] = "the image cannot be read as a picture"
        try:
            found = dict(zip(chats, self.ask(list(chats.values())), strict=True))
        except ValueError:  # one refused row refuses its batch
            found = {}
            for place, chat in chats.items():
                try:
                    found |= {place: self.ask([chat])[0]}
                except ValueError as error:
                    errors[place] = str(error)
        for place, answer in found.items():
            answers[place] = answer
        return pa.table({"id": rows["id"].cast(pa.string()), "answer": answers, "error": errors}, schema=SCHEMA)

    def ask(self, chats: list[list[dict[str, Any]]]) -> list[str]:
        """Greedy answers, in the order of the questions."""
        return [output.outputs[0].text.strip() for output in self.llm.chat(chats, self.greedy, use_tqdm=False)]


def conversation(image: Any, question: str) -> list[dict[str, Any]]:
    """One question about one picture, checked before the engine sees it."""
    data = image["bytes"] if isinstance(image, dict) else image
    with Image.open(io.BytesIO(data)) as picture:
        picture.verify()
        kind = (picture.format or "png").lower()
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]}]


def answered(out: Path) -> set[str]:
    """The ids of all rows that a stopped job has written."""
    return {name for part in out.glob("*.parquet") for name in pq.read_table(part, columns=["id"])["id"].to_pylist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True, help="a folder that foveate export vllm wrote")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=1, help="for each worker")
    parser.add_argument("--batch", type=int, default=32, help="rows that a worker is given at once; these are asked again if it dies")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--engine", type=json.loads, default={}, help='options of vllm.LLM, such as {"max_model_len": 2048}')
    asked = parser.parse_args()

    clear(make_folder(asked.out))
    done = answered(asked.out)
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch:
        # Each worker takes one of Ray's cores; without two more, the tasks that read and filter would wait for them for ever.
        ray.init(address="local", num_cpus=asked.workers + 2, include_dashboard=False, _temp_dir=scratch, log_to_driver=False)
        try:
            rows = ray.data.read_parquet(str(asked.questions), columns=["id", "image", "question"])
            left = rows.filter(lambda row: str(row["id"]) not in done)
            answers = left.repartition(target_num_rows_per_block=asked.batch).map_batches(
                Answerer,
                fn_constructor_args=(os.path.abspath(asked.model), asked.new_tokens, asked.engine),
                batch_size=asked.batch,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=asked.workers),
                num_gpus=asked.gpus,
            )
            written = 0
            for part in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
                with whole(asked.out / f"{uuid4().hex}.parquet") as unfinished:
                    pq.write_table(part.cast(SCHEMA), unfinished)
                written += len(part)
                print(f"{len(done) + written} rows answered", flush=True)
        finally:
            ray.shutdown()
    print(f"done: {written} new rows, {len(done)} from before, in {asked.out}")


if __name__ == "__main__":
    main()
