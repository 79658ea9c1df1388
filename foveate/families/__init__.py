"""What foveate knows about models: one file per model family. Importing this package registers them; nothing outside it names a family.

Start with `base` (`Family`, the interface) and `llava` (a short example). `generic` covers models that need no code of their own, `refused`
has the reasons for the others, and `kit` holds the helpers that families share.
"""

# Importing a family registers it; this order is the order of lists.
from foveate.families import generic as _generic  # noqa: F401
from foveate.families import idefics3 as _idefics3  # noqa: F401
from foveate.families import internvl as _internvl  # noqa: F401
from foveate.families import llava as _llava  # noqa: F401
from foveate.families import llava_next as _llava_next  # noqa: F401
from foveate.families import llava_next_video as _llava_next_video  # noqa: F401
from foveate.families import llava_onevision as _llava_onevision  # noqa: F401
from foveate.families import mistral3 as _mistral3  # noqa: F401
from foveate.families import qwen2_vl as _qwen2_vl  # noqa: F401
from foveate.families import qwen3_vl as _qwen3_vl  # noqa: F401
from foveate.families import vila as _vila  # noqa: F401
from foveate.families.base import Family, families, family_of, regions_of, register
from foveate.families.kit.layout import Encoding, ImageTokens, Layout, place
from foveate.families.kit.regions import Box, Region, RegionRequest, Request
from foveate.families.refused import REFUSED
from foveate.families.support import Support, support

__all__ = [
    "REFUSED",
    "Box",
    "Encoding",
    "Family",
    "ImageTokens",
    "Layout",
    "Region",
    "RegionRequest",
    "Request",
    "Support",
    "families",
    "family_of",
    "place",
    "regions_of",
    "register",
    "support",
]
