"""The one place where prompts are made: conversations with images and videos become the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.chat.processors import chat_texts, make_inputs
from foveate.chat.visuals import DEFAULT_FRAMES, VisualInput
from foveate.errors import InputError, UnsupportedError
from foveate.images import load_image, plain_image

if TYPE_CHECKING:
    from foveate.video import Frames

__all__ = ["Chat", "Conversation", "build_inputs", "question_about"]


@dataclass(frozen=True)
class Conversation:
    """What is said and shown.

    Attributes:
        turns: messages as chat templates take them; they only mark where images and videos stand.
        images: the images, in order.
        videos: the videos' frames, in order.
    """

    turns: tuple[dict[str, Any], ...]
    images: tuple[Image.Image, ...] = ()
    videos: tuple[Frames, ...] = ()

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether there are images, and videos: only conversations of one kind share a batch."""
        return bool(self.images), bool(self.videos)


def question_about(processor: Any, question: str, visual: VisualInput) -> Conversation:
    """One question about an image or a video, which the processor sees as frames if it takes no videos."""
    marks, images, videos = _shown(processor, visual)
    turn = {"role": "user", "content": [*marks, {"type": "text", "text": question}]}
    return Conversation((turn,), images, videos)


def build_inputs(processor: Any, conversations: Sequence[Conversation]) -> Any:
    """The keyword arguments of `generate` for a batch, on the CPU; two or more rows are padded on the side that the tokenizer is set to.

    Args:
        processor: the model's. Without a chat template it takes one question about one image, in the form that LLaVA-1.5 was trained with.
        conversations: at least one, all of one `kind`.

    Raises:
        InputError: the processor has no chat template, and there is more than one question about one image.
        ProcessorError: the processor or its chat template fails.
    """
    if getattr(processor, "chat_template", None):
        texts = chat_texts(processor, [conversation.turns for conversation in conversations])
    else:
        texts = [_without_template(conversation) for conversation in conversations]
    given: dict[str, Any] = {"padding": True} if len(conversations) > 1 else {}
    if conversations[0].images:
        given["images"] = [list(conversation.images) for conversation in conversations]
    if conversations[0].videos:
        videos = [video for conversation in conversations for video in conversation.videos]
        given["videos"] = [list(video.images) for video in videos]
        # the processor is given the time of each frame, and must not choose frames itself
        given |= {"video_metadata": [_metadata(video) for video in videos], "do_sample_frames": False}
    return make_inputs(processor, texts, **given)


class Chat:
    """Makes inputs for one model in batches.

    Args:
        processor: the model's, with a chat template.
        frames: frames taken from a video, evenly spread in time.
        blind: omit images and videos from the prompt.

    Attributes:
        processor: as it was given.

    Raises:
        InputError: the processor has no chat template, so the form of a prompt is unknown.
    """

    def __init__(self, processor: Any, frames: int = DEFAULT_FRAMES, *, blind: bool = False) -> None:
        if not getattr(processor, "chat_template", None):
            raise InputError(
                "the model's processor has no chat template, so the form of its prompts is unknown; "
                "save a chat_template.jinja beside its other files"
            )
        self.processor, self._frames, self._blind = processor, frames, blind
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"  # generate needs the last token of every row at the end
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def read(self, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """Read a conversation and its files.

        Args:
            messages: each with a `role` and a list `content` of parts, whose `type` is "text" (then with `text`), "image" or
                "video" (then with `url`: an image, or the path of a file).

        Raises:
            InputError: a file cannot be read.
            UnsupportedError: there is sound, or only a span of a video is asked for.
        """
        turns: list[dict[str, Any]] = []
        images: list[Image.Image] = []
        videos: list[Frames] = []
        for message in messages:
            parts: list[dict[str, Any]] = []
            for part in message["content"]:
                if part["type"] == "text":
                    parts.append({"type": "text", "text": part["text"]})
                elif part["type"] not in ("image", "video") and not self._blind:
                    raise UnsupportedError(f"a prompt cannot contain {part['type']!r}; it can contain text, images and videos")
                elif not self._blind:
                    visual = VisualInput((_picture(part["url"]),)) if part["type"] == "image" else self._video(part)
                    marks, more_images, more_videos = _shown(self.processor, visual)
                    parts += marks
                    images += more_images
                    videos += more_videos
            turns.append({"role": message["role"], "content": parts})
        return Conversation(tuple(turns), tuple(images), tuple(videos))

    def inputs(self, conversations: Sequence[Conversation]) -> Any:
        """As `build_inputs`; rows of a batch are padded on the left."""
        return build_inputs(self.processor, conversations)

    @property
    def padding(self) -> int:
        """The id of the token that pads answers which have ended."""
        return int(self._tokenizer.pad_token_id)

    def decode(self, answer: Any) -> str:
        """The text of an answer's tokens (n,)."""
        return str(self.processor.decode(answer, skip_special_tokens=True)).strip()

    def _video(self, part: Mapping[str, Any]) -> VisualInput:
        from foveate.video import read_frames

        if part.get("start_time") is not None or part.get("end_time") is not None or not isinstance(part["url"], str):
            raise UnsupportedError(f"a video can only be shown as a whole file, not {part['url']!r} from or to a certain time")
        found = read_frames(part["url"], self._frames)
        return VisualInput(found.images, found)


def _shown(processor: Any, visual: VisualInput) -> tuple[list[dict[str, Any]], tuple[Image.Image, ...], tuple[Frames, ...]]:
    """The marks of an image or video in a message, and what they stand for."""
    if visual.video is not None and getattr(processor, "video_processor", None) is not None:
        return [{"type": "video"}], (), (visual.video,)
    return [{"type": "image"} for _ in visual.pictures], visual.pictures, ()


def _without_template(conversation: Conversation) -> str:
    if len(conversation.turns) > 1 or len(conversation.images) != 1 or conversation.videos:
        raise InputError(
            "the model's processor has no chat template, so it can be asked one question about one image only; "
            "save a chat_template.jinja beside its other files"
        )
    question = next(part["text"] for part in conversation.turns[0]["content"] if part["type"] == "text")
    return f"USER: <image>\n{question} ASSISTANT:"


def _metadata(video: Frames) -> Any:
    """What a processor must know of frames that were chosen for it."""
    from transformers.video_utils import VideoMetadata

    rate = video.total / video.duration
    return VideoMetadata(
        total_num_frames=video.total,
        fps=rate,
        duration=video.duration,
        frames_indices=[min(round(time * rate), video.total - 1) for time in video.times],
    )


def _picture(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return plain_image(picture, "a picture", max_pixels=max(1, picture.width * picture.height)).image  # it is decoded already
    if isinstance(picture, str):
        return load_image(picture).image
    raise UnsupportedError(f"an image must be a PIL image or the path of a file, not {type(picture).__name__}")
