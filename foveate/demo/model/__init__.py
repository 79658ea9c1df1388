"""The embedded model's two shapes: configuration, processor and vocabulary.

Start with `shape` (the interface), then `architecture` (LLaVA's shape) and `dynamic` (Qwen2-VL's). `language` has words and prompts,
`processing` the processor with dynamic resolution, and `packed` runs many questions about one image in one pass.
"""
