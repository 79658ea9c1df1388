"""Serves one model on as many processes as asked, and prints what it answers. Run by test_vllm_parallel.py."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Arguments: the folder, the number of processes, the question, and the seeds of the scenes."""
    from vllm import LLM, SamplingParams

    from foveate import demo

    folder, ranks, question, *seeds = sys.argv[1:]
    llm = LLM(
        folder,
        tensor_parallel_size=int(ranks),
        distributed_executor_backend="mp",
        max_model_len=512,
        max_num_seqs=4,
        num_gpu_blocks_override=64,
        enforce_eager=True,
        dtype="float32",
    )
    prompts = [
        {"prompt": demo.prompt(question), "multi_modal_data": {"image": demo.scene(int(seed), split="held_out").image}} for seed in seeds
    ]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=6, temperature=0, logprobs=0, ignore_eos=True), use_tqdm=False)
    found = [
        [list(output.outputs[0].token_ids), [next(iter(step.values())).logprob for step in output.outputs[0].logprobs]]
        for output in outputs
    ]
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
