"""Every family's model with its own processor, at sizes that tests can afford."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import transformers
import zoo
import zoo_generic
import zoo_qwen
import zoo_vila
from painted import RegionCase, alone, image_processor, runs, tokenizer
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from zoo import END, IMAGE, MARK, NEWLINE, START, VIDEO, WHOLE

from foveate import demo

__all__ = ["REGION_CASES"]

SMALL = {"height": 28, "width": 28}
CLIP = {"size": {"shortest_edge": 28}, "crop_size": SMALL}
PATCHES = {"patch_size": 7, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 14 * 14 * 6, "longest_edge": 98 * 98}}
PIXTRAL = {"size": {"longest_edge": 64}, "patch_size": {"height": 8, "width": 8}}


def only_pictures(module: str, name: str, **settings: Any) -> Callable[[str], Any]:
    """A processor of pictures alone."""
    return lambda backend: alone(image_processor(backend, module, name, **settings))


def asked(text: str, between: str = " w4 ") -> Callable[[Any, Any, Sequence[Image.Image]], Mapping[str, Any]]:
    """A prompt by the whole processor, with `text` for each picture."""

    def inputs(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
        prompt = f"w3 {between.join([text] * len(pictures))} w5"
        return processor(images=[list(pictures)], text=[prompt], return_tensors="pt")

    return inputs


def shown(text: str) -> Callable[[Any, Any, Sequence[Image.Image]], Mapping[str, Any]]:
    """A prompt by the whole processor, with `text` for the pictures as a video."""

    def inputs(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
        more = {"video_metadata": [{"total_num_frames": len(pictures), "fps": 2.0, "frames_indices": list(range(len(pictures)))}]}
        return processor(videos=[list(pictures)], text=[f"w3 {text} w5"], do_sample_frames=False, return_tensors="pt", **more)

    return inputs


# LLaVA and similar models.


def llava(vision: Any = None) -> Any:
    return zoo.llava(vision, vision_feature_layer=-1, vision_feature_select_strategy="default" if vision is None else "full")


def next_processor(backend: str, **sizes: Any) -> Any:
    settings = {**CLIP, "image_grid_pinpoints": zoo.PINPOINTS, **sizes}
    images = image_processor(backend, "llava_next", "LlavaNextImageProcessor", **settings)
    options = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaNextProcessor(images, tokenizer({IMAGE: "<image>"}), **options)


def next_video_processor(backend: str) -> Any:
    images = image_processor(backend, "llava_next", "LlavaNextImageProcessor", **CLIP, image_grid_pinpoints=zoo.PINPOINTS)
    videos = transformers.LlavaNextVideoVideoProcessor(**CLIP)
    options = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    words = tokenizer({IMAGE: "<image>", VIDEO: "<video>"})
    return transformers.LlavaNextVideoProcessor(video_processor=videos, image_processor=images, tokenizer=words, **options)


def onevision_processor(backend: str, pixels: int = 35) -> Any:
    size = {"height": pixels, "width": pixels}
    points = [[rows * pixels // 35, columns * pixels // 35] for rows, columns in zoo.OV_PINPOINTS]
    images = image_processor(backend, "llava_onevision", "LlavaOnevisionImageProcessor", size=size, image_grid_pinpoints=points)
    videos = transformers.LlavaOnevisionVideoProcessor(size=size)
    options = {"num_image_tokens": 25, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    words = tokenizer({IMAGE: "<image>", VIDEO: "<video>"})
    return transformers.LlavaOnevisionProcessor(images, words, videos, **options)


def onevision(most: int, pixels: int = 35) -> Any:
    """Tiles have `pixels` per side and patches seven, so that the last pixels of larger tiles are not seen."""
    points = [[rows * pixels // 35, columns * pixels // 35] for rows, columns in zoo.OV_PINPOINTS]
    vision = zoo.tower("siglip_vision_model", image_size=pixels, patch_size=7, vision_use_head=False)
    tokens = {"image_token_index": IMAGE, "video_token_index": VIDEO}
    scaled = {"image_grid_pinpoints": points, "vision_aspect_ratio": f"anyres_max_{most}"}
    return zoo.model_of("llava_onevision", vision_config=vision, text_config=zoo.text("qwen2"), **tokens, **scaled)


def scaled(backend: str) -> Any:
    processor = onevision_processor(backend)
    processor.vision_aspect_ratio = "anyres_max_2"
    return processor


# Crops.


def idefics3_processor(backend: str, module: str = "idefics3", name: str = "Idefics3", video: bool = False) -> Any:
    special = {IMAGE: "<image>", START: "<fake_token_around_image>", WHOLE: "<global-img>", 85: "<end_of_utterance>"}
    special |= {20 + 8 * row + column: f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(7)}
    sizes = {"size": {"longest_edge": 160}, "max_image_size": {"longest_edge": 32}}
    images = image_processor(backend, module, f"{name}ImageProcessor", **sizes)
    kind = getattr(transformers, f"{name}Processor")
    more = {"video_processor": transformers.SmolVLMVideoProcessor(**sizes)} if video else {}
    return kind(images, tokenizer(special), image_seq_len=16, **more)


def whole_only(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
    text = " w4 ".join(["<image>"] * len(pictures))
    return processor(images=[list(pictures)], text=[f"w3 {text} w5"], do_image_splitting=False, return_tensors="pt")


CROPS = {"size": {"height": 32, "width": 32}, "crop_to_patches": True, "max_patches": 6}


def ovis2_prompt(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
    """The whole and then the crops, with the processor's own arrangement in indicators, as transformers writes them."""
    ids, pixels = [3], []
    for picture in pictures:
        made = processor.image_processor(picture, return_tensors="pt")
        rows, columns = (int(number) for number in made["grids"][0])
        pixels.append(made["pixel_values"])
        ids += [START, *[IMAGE] * 16, MARK]
        for row in range(rows if rows * columns > 1 else 0):
            for column in range(columns):
                ids += [*[IMAGE] * 16, *[NEWLINE] * (column < columns - 1)]
            ids += [WHOLE] * (row < rows - 1)
        ids.append(END)
    given = torch.tensor([[*ids, 5]])
    return {"input_ids": given, "attention_mask": torch.ones_like(given), "pixel_values": torch.cat(pixels)}


def frames_as_crops(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
    """InternVL's frames: each is one crop between a start and an end."""
    pixels = processor.video_processor(videos=[list(pictures)], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    given = torch.tensor([[3, *[START, *[IMAGE] * 16, END] * len(pictures), 5]])
    return {"input_ids": given, "attention_mask": torch.ones_like(given), "pixel_values": pixels.flatten(0, 1)}


# Qwen-VL.


def qwen_processor(backend: str, name: str = "Qwen2VL") -> Any:
    special = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", START: "<|vision_start|>", END: "<|vision_end|>"}
    images = image_processor(backend, "qwen2_vl", "Qwen2VLImageProcessor", **PATCHES)
    sizes = {**PATCHES, "size": {"shortest_edge": 14 * 14 * 6, "longest_edge": 98 * 98 * 4}}
    videos = transformers.Qwen3VLVideoProcessor(**sizes) if name == "Qwen3VL" else transformers.Qwen2VLVideoProcessor(**sizes)
    return getattr(transformers, f"{name}Processor")(images, tokenizer(special), videos)


QWEN_IMAGE, QWEN_VIDEO = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"


def pixtral_processor(backend: str, patch: int = 4, merge: int = 2) -> Any:
    special = {IMAGE: "[IMG]", NEWLINE: "[IMG_BREAK]", END: "[IMG_END]"}
    images = image_processor(backend, "pixtral", "PixtralImageProcessor", **PIXTRAL)
    return transformers.PixtralProcessor(images, tokenizer(special), patch_size=patch, spatial_merge_size=merge)


# The embedded models, whose weights see real scenes.


def embedded(shape: str) -> RegionCase:
    """A trained model; its patches see each other in the tower's first layer already, but through nothing else than attention."""

    def inputs(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
        return processor(images=list(pictures), text=demo.prompt("what is this?"), return_tensors="pt")

    sizes = ((336, 336), (500, 180), (180, 500), (90, 60))
    return RegionCase(
        f"embedded {shape}", lambda: demo.load(shape=shape)[0], lambda backend: demo.load(shape=shape)[1], inputs, sizes=sizes
    )


def merged(module: str, name: str, **settings: Any) -> Callable[[str], Any]:
    sizes = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 8 * 8 * 6, "longest_edge": 64 * 64}}
    return only_pictures(module, name, **{**sizes, **settings})


def generic(model_type: str, processor: Callable[[str], Any], inputs: Any = runs, **more: Any) -> RegionCase:
    case = next(case for case in zoo_generic.CASES if case.model_type == model_type)
    return RegionCase(model_type, case.build, processor, inputs, model_type=model_type, **more)


def typed(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
    """As `runs`, with the token types that some models make their positions from."""
    given = runs(model, processor, pictures)
    return {**given, "mm_token_type_ids": (given["input_ids"] == IMAGE).long()}


SQUEEZED = {"size": SMALL}
VILA = SiglipImageProcessorPil(size={"height": 35, "width": 35})
VILA_EVEN = SiglipImageProcessorPil(size={"height": 42, "width": 42})
NOT_TOO_LONG = ((96, 96), (170, 60), (60, 170), (150, 40), (24, 18), (131, 97))

REGION_CASES = (
    RegionCase("llava", llava, only_pictures("clip", "CLIPImageProcessor", **CLIP), runs),
    RegionCase("llava, several", llava, only_pictures("clip", "CLIPImageProcessor", **CLIP), runs, pictures=2),
    RegionCase("llava with borders", llava, only_pictures("llava", "LlavaImageProcessor", **CLIP, do_pad=True), runs),
    RegionCase("llava siglip", partial(llava, zoo.siglip()), only_pictures("siglip", "SiglipImageProcessor", size=SMALL), runs),
    RegionCase(
        "llava siglip, unseen edge",
        lambda: llava(zoo.tower("siglip_vision_model", image_size=33, patch_size=7, vision_use_head=False)),
        only_pictures("siglip", "SiglipImageProcessor", size={"height": 33, "width": 33}),
        runs,
    ),
    RegionCase("pixtral", zoo.llava_pixtral, partial(pixtral_processor, patch=8, merge=1), asked("[IMG]"), only="torchvision"),
    RegionCase(
        "mistral3", zoo.mistral3, pixtral_processor, asked("[IMG]"), only="torchvision", sizes=((96, 96), (170, 60), (60, 170), (24, 18))
    ),
    RegionCase("mistral3, several", zoo.mistral3, pixtral_processor, asked("[IMG]"), only="torchvision", sizes=((96, 60),), pictures=2),
    RegionCase(
        "lighton_ocr",
        zoo.lighton_ocr,
        only_pictures("pixtral", "PixtralImageProcessor", **{**PIXTRAL, "size": {"longest_edge": 32}}),
        runs,
        sizes=((96, 96), (170, 90)),
    ),
    RegionCase("llava_next", zoo.llava_next, next_processor, asked("<image>")),
    RegionCase("llava_next, several", zoo.llava_next, next_processor, asked("<image>"), pictures=2),
    RegionCase("llava_next_video", zoo.llava_next_video, next_video_processor, asked("<image>"), only="torchvision"),
    RegionCase(
        "llava_next_video, video", zoo.llava_next_video, next_video_processor, shown("<video>"), only="torchvision", pictures=3, video=True
    ),
    RegionCase("llava_onevision", partial(onevision, 9), onevision_processor, asked("<image>"), only="torchvision"),
    RegionCase(
        "llava_onevision, unseen edges",
        partial(onevision, 9, 39),
        partial(onevision_processor, pixels=39),
        asked("<image>"),
        only="torchvision",
    ),
    RegionCase("llava_onevision, scaled", partial(onevision, 2), scaled, asked("<image>"), only="torchvision", spread=1.0),
    RegionCase("llava_onevision, several", partial(onevision, 9), onevision_processor, asked("<image>"), only="torchvision", pictures=2),
    RegionCase(
        "llava_onevision, video",
        partial(onevision, 9),
        onevision_processor,
        shown("<video>"),
        only="torchvision",
        pictures=3,
        video=True,
        spread=1.0,
    ),
    RegionCase("internvl", lambda: zoo.internvl("internvl", "qwen2"), only_pictures("got_ocr2", "GotOcr2ImageProcessor", **CROPS), runs),
    RegionCase(
        "qianfan_ocr", lambda: zoo.internvl("qianfan_ocr", "qwen3"), only_pictures("got_ocr2", "GotOcr2ImageProcessor", **CROPS), runs
    ),
    RegionCase(
        "internvl, several",
        lambda: zoo.internvl("internvl", "qwen2"),
        only_pictures("got_ocr2", "GotOcr2ImageProcessor", **CROPS),
        runs,
        pictures=2,
    ),
    RegionCase(
        "internvl, video",
        lambda: zoo.internvl("internvl", "qwen2"),
        lambda backend: alone(
            image_processor(backend, "got_ocr2", "GotOcr2ImageProcessor", **CROPS),
            transformers.InternVLVideoProcessor(size={"height": 32, "width": 32}),
        ),
        frames_as_crops,
        only="torchvision",
        pictures=2,
        video=True,
    ),
    RegionCase("idefics3", lambda: zoo.idefics3("idefics3"), idefics3_processor, asked("<image>")),
    RegionCase("idefics3, several", lambda: zoo.idefics3("idefics3"), idefics3_processor, asked("<image>"), pictures=2),
    RegionCase("idefics3, not split", lambda: zoo.idefics3("idefics3"), idefics3_processor, whole_only),
    RegionCase(
        "smolvlm",
        lambda: zoo.idefics3("smolvlm"),
        partial(idefics3_processor, module="smolvlm", name="SmolVLM", video=True),
        asked("<image>"),
        only="torchvision",
    ),
    RegionCase(
        "smolvlm, video",
        lambda: zoo.idefics3("smolvlm"),
        partial(idefics3_processor, module="smolvlm", name="SmolVLM", video=True),
        shown("<video>"),
        only="torchvision",
        pictures=3,
        video=True,
    ),
    RegionCase("qwen2_vl", zoo_qwen.qwen2, qwen_processor, asked(QWEN_IMAGE), only="torchvision"),
    RegionCase("qwen2_vl, several", zoo_qwen.qwen2, qwen_processor, asked(QWEN_IMAGE), only="torchvision", pictures=2),
    RegionCase("qwen2_vl, video", zoo_qwen.qwen2, qwen_processor, shown(QWEN_VIDEO), only="torchvision", pictures=5, video=True),
    RegionCase("qwen2_5_vl", zoo_qwen.qwen25, partial(qwen_processor, name="Qwen2_5_VL"), asked(QWEN_IMAGE), only="torchvision"),
    RegionCase("qwen3_vl", zoo_qwen.qwen3, partial(qwen_processor, name="Qwen3VL"), asked(QWEN_IMAGE), only="torchvision"),
    RegionCase(
        "qwen3_vl_moe",
        partial(zoo_qwen.qwen3, "qwen3_vl_moe", **zoo_qwen.MOE),
        partial(qwen_processor, name="Qwen3VL"),
        asked(QWEN_IMAGE),
        only="torchvision",
        sizes=((96, 96), (170, 60)),
    ),
    RegionCase(
        "qwen3_vl, video",
        zoo_qwen.qwen3,
        partial(qwen_processor, name="Qwen3VL"),
        shown(QWEN_VIDEO),
        only="torchvision",
        pictures=4,
        video=True,
    ),
    embedded("llava"),
    embedded("qwen2-vl"),
    RegionCase("vila siglip", zoo_vila.with_siglip, lambda backend: alone(VILA), runs),
    RegionCase("vila internvit", zoo_vila.with_internvit, lambda backend: alone(VILA_EVEN), runs),
    generic("cosmos3_edge", merged("cosmos3_edge", "Cosmos3EdgeImageProcessor"), typed),
    generic("deepseek_vl", only_pictures("deepseek_vl", "DeepseekVLImageProcessor", size=SMALL, min_size=7)),
    generic(
        "deepseek_vl_hybrid",
        only_pictures(
            "deepseek_vl_hybrid",
            "DeepseekVLHybridImageProcessor",
            size=SMALL,
            min_size=7,
            high_res_size={"height": 128, "width": 128},
        ),
        spread=1.0,
    ),
    generic("glm46v", merged("glm46v", "Glm46VImageProcessor"), typed),
    generic("glm4v", merged("glm4v", "Glm4vImageProcessor"), typed),
    generic("glm4v_moe", merged("glm4v", "Glm4vImageProcessor"), typed),
    generic("glm_ocr", merged("glm46v", "Glm46VImageProcessor"), typed),
    generic("glmga", merged("glmga", "GlmgaImageProcessor"), typed),
    generic("got_ocr2", only_pictures("got_ocr2", "GotOcr2ImageProcessor", **{**CROPS, "size": {"height": 256, "width": 256}}), spread=1.0),
    generic("hyperclovax_vision_v2", merged("qwen2_vl", "Qwen2VLImageProcessor")),
    generic("janus", only_pictures("janus", "JanusImageProcessor", size=SMALL, min_size=7)),
    generic(
        "kimi_k25",
        only_pictures(
            "kimi_k25", "Kimi_K25ImageProcessor", patch_size=4, merge_size=2, max_patches=256, size={"max_height": 16, "max_width": 16}
        ),
        only="torchvision",
    ),
    generic("ovis2", only_pictures("ovis2", "Ovis2ImageProcessor", size=SMALL, crop_to_patches=True, max_patches=6), ovis2_prompt),
    generic("paddleocr_vl", merged("paddleocr_vl", "PaddleOCRVLImageProcessor"), typed),
    generic(
        "pp_chart2table", only_pictures("pp_chart2table", "PPChart2TableImageProcessor", size={"height": 256, "width": 256}), spread=1.0
    ),
    generic("video_llama_3", merged("video_llama_3", "VideoLlama3ImageProcessor")),
    generic("video_llava", lambda backend: alone(transformers.VideoLlavaImageProcessor(**CLIP))),
    generic("vipllava", only_pictures("clip", "CLIPImageProcessor", **CLIP)),
)
