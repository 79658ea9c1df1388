"""Turning conversations with pictures and videos, as evaluation harnesses write them, into the inputs of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.chat.processors import chat_texts, make_inputs
from foveate.errors import InputError, UnsupportedError
from foveate.images import load_image, plain_image

if TYPE_CHECKING:
    from foveate.video import Frames

__all__ = ["Chat", "Conversation", "video_metadata"]


@dataclass(frozen=True)
class Conversation:
    """What is said and shown.

    Attributes:
        turns: messages as chat templates take them; their pictures and videos are only marked there.
        images: the pictures, in order.
        videos: the videos' frames, in order.
    """

    turns: tuple[dict[str, Any], ...]
    images: tuple[Image.Image, ...] = ()
    videos: tuple[Frames, ...] = ()

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether there are pictures, and videos: only conversations of one kind share a batch."""
        return bool(self.images), bool(self.videos)


class Chat:
    """Makes inputs for one model.

    Args:
        processor: the model's, with a chat template.
        frames: pictures taken from a video, evenly spread in time.
        blind: leave pictures and videos out of the prompt.

    Attributes:
        processor: as it was given.

    Raises:
        InputError: the processor has no chat template, so nobody knows how the model is asked.
    """

    def __init__(self, processor: Any, frames: int = 8, *, blind: bool = False) -> None:
        if not getattr(processor, "chat_template", None):
            raise InputError(
                "the model's processor has no chat template, so nobody knows how it is asked; save one beside it (chat_template.jinja)"
            )
        self.processor, self._frames, self._blind = processor, frames, blind
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"  # what generates needs its last token at the end
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def read(self, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """Take a conversation up, with its files read.

        Args:
            messages: each with a `role` and a list `content` of parts, whose `type` is "text" (then with `text`), "image" or
                "video" (then with `url`: a picture, or the path of a file).

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
                elif self._blind:
                    continue
                elif part["type"] == "image":
                    images.append(_picture(part["url"]))
                    parts.append({"type": "image"})
                elif part["type"] == "video":
                    parts += self._video(part, images, videos)
                else:
                    raise UnsupportedError(f"a prompt with {part['type']!r} cannot be asked; there are text, images and videos")
            turns.append({"role": message["role"], "content": parts})
        return Conversation(tuple(turns), tuple(images), tuple(videos))

    def inputs(self, conversations: Sequence[Conversation]) -> Any:
        """The keyword arguments of `generate` for a batch, padded on the left, on the CPU.

        Args:
            conversations: at least one, all of one `kind`.

        Raises:
            ProcessorError: the processor or its chat template fails.
        """
        texts = chat_texts(self.processor, [conversation.turns for conversation in conversations])
        given: dict[str, Any] = {}
        if conversations[0].images:
            given["images"] = [list(conversation.images) for conversation in conversations]
        if conversations[0].videos:
            shown = [video for conversation in conversations for video in conversation.videos]
            given["videos"] = [list(video.images) for video in shown]
            given |= {"video_metadata": [video_metadata(video) for video in shown], "do_sample_frames": False}
        return make_inputs(self.processor, texts, padding=True, **given)

    @property
    def padding(self) -> int:
        """The token that fills answers up."""
        return int(self._tokenizer.pad_token_id)

    def decode(self, answer: Any) -> str:
        """The text of an answer's tokens (n,)."""
        return str(self.processor.decode(answer, skip_special_tokens=True)).strip()

    def _video(self, part: Mapping[str, Any], images: list[Image.Image], videos: list[Frames]) -> list[dict[str, Any]]:
        """The marks of a video, which is shown as pictures to a model that knows no videos."""
        from foveate.video import read_frames

        if part.get("start_time") is not None or part.get("end_time") is not None or not isinstance(part["url"], str):
            raise UnsupportedError(f"only the whole of a video file can be shown, not {part['url']!r} from or to a certain time")
        shown = read_frames(part["url"], self._frames)
        if getattr(self.processor, "video_processor", None) is not None:
            videos.append(shown)
            return [{"type": "video"}]
        images += shown.images
        return [{"type": "image"} for _ in shown.images]


def video_metadata(video: Frames) -> Any:
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
    raise UnsupportedError(f"a picture must be a PIL image or the path of a file, not {type(picture).__name__}")
