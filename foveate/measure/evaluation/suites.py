"""The data sets that papers evaluate on, and their names in lmms-eval 0.7.3."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from foveate.errors import UnknownNameError

__all__ = ["BENCHMARKS", "SUITES", "Benchmark", "find_suite", "known"]


@dataclass(frozen=True)
class Benchmark:
    """A data set, as papers name it.

    Attributes:
        name: the papers' name.
        task: lmms-eval's name; empty if it has none.
        metrics: those of the task's metrics whose sum is its score; empty for the first one that the task lists.
        judge: scored by another model through an API.
        needs: where the data comes from: "download", or "scenes" for what foveate draws itself.
        video: contains videos.
        group: number of questions that are scored together; a limit must be a multiple of it.
        why: a note for users.
    """

    name: str
    task: str
    metrics: tuple[str, ...] = ()
    judge: bool = False
    needs: str = "download"
    video: bool = False
    group: int = 1
    why: str = ""


_MME_PARTS = ("mme_perception_score", "mme_cognition_score")

BENCHMARKS: dict[str, Benchmark] = {
    each.task or each.name: each
    for each in (
        Benchmark("Scenes", "foveate_scenes", needs="scenes"),
        Benchmark("POPE on scenes", "foveate_pope", ("pope_accuracy",), needs="scenes"),
        Benchmark("TextVQA on scenes", "foveate_textvqa", ("exact_match",), needs="scenes"),
        Benchmark("MME on scenes", "foveate_mme", _MME_PARTS, needs="scenes", group=2),
        Benchmark("MME", "mme", _MME_PARTS, group=2, why="perception and cognition together, of 2800"),
        Benchmark("MMBench", "mmbench_en_dev_static", why="the plain task picks letters by chance where there is no API key"),
        Benchmark("MMBench-CN", "mmbench_cn_dev", judge=True, why="without an API key it picks letters by chance"),
        Benchmark("POPE", "pope", ("pope_accuracy",), why="papers show accuracy or F1; both are in the results"),
        Benchmark("ScienceQA-IMG", "scienceqa_img"),
        Benchmark("VizWiz", "vizwiz_vqa_val"),
        Benchmark("TextVQA", "textvqa_val", why="without OCR tokens in the prompt"),
        Benchmark("VQAv2", "vqav2_val"),
        Benchmark("GQA", "gqa"),
        Benchmark("MM-Vet", "mmvet", judge=True),
        Benchmark("SEED-Bench", "seedbench", ("seed_all",), video=True),
        Benchmark("MMMU", "mmmu_val"),
        Benchmark("MMStar", "mmstar", ("average",)),
        Benchmark("OCRBench", "ocrbench"),
        Benchmark("ChartQA", "chartqa", ("relaxed_overall",)),
        Benchmark("DocVQA", "docvqa_val"),
        Benchmark("RefCOCO", "refcoco_bbox_rec_val", ("refcoco_ACC@0.5",), why="plain refcoco_bbox_* is captioning"),
        Benchmark("Video-MME", "videomme", video=True),
        Benchmark("MVBench", "mvbench", video=True, why="the mean over its parts"),
        Benchmark("MMBench-Video", "", judge=True, video=True, why="lmms-eval 0.7.3 has no such task"),
        Benchmark("MLVU", "mlvu_dev", video=True),
        Benchmark("LongVideoBench", "longvideobench_val_v", video=True),
        Benchmark("NExT-QA", "nextqa_mc_test", video=True),
        Benchmark("ActivityNet-QA", "activitynetqa", judge=True, video=True),
    )
}
"""By lmms-eval's name, or the papers' where it has none."""

SUITES: dict[str, tuple[str, ...]] = {
    "scenes": ("foveate_scenes",),
    "stand-ins": ("foveate_pope", "foveate_textvqa", "foveate_mme"),
    "tokencarve": (
        "mme", "mmbench_en_dev_static", "mmbench_cn_dev", "pope", "scienceqa_img", "vizwiz_vqa_val", "textvqa_val", "vqav2_val", "gqa",
        "mmvet", "seedbench", "mmmu_val",
    ),
    "explainability-image": (
        "mme", "mmstar", "mmvet", "seedbench", "mmmu_val", "pope", "scienceqa_img", "ocrbench", "chartqa", "docvqa_val", "textvqa_val",
        "refcoco_bbox_rec_val",
    ),
    "explainability-video": (
        "videomme", "mvbench", "MMBench-Video", "mlvu_dev", "longvideobench_val_v", "nextqa_mc_test", "activitynetqa",
    ),
}  # fmt: skip
"""Tasks by suite."""


def find_suite(name: str) -> list[Benchmark]:
    """The data sets of a suite.

    Raises:
        UnknownNameError: with the nearest name and all known ones.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in SUITES:
        near = difflib.get_close_matches(wanted, SUITES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownNameError(f"unknown suite {name!r}: {hint}known suites are {', '.join(SUITES)}")
    return [BENCHMARKS[task] for task in SUITES[wanted]]


def known(task: str) -> Benchmark:
    """The entry of a task; one that no suite names has only its name."""
    return BENCHMARKS.get(task, Benchmark(task, task))
