"""One vector per picture out of a model's own vision tower, by which pictures are found alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmalign.adapters._vision_media import encode_units, run_tower
from mmalign.adapters._vision_parts import core_of, has_one_projector
from mmalign.adapters._vision_rows import Reader
from mmalign.types import Message, Part


def picture_vectors(reader: Reader, model: Any, pictures: Sequence[Part], device: torch.device) -> Tensor:
    """Means over what the tower gives to its projector, or what the language model gets where several
    projectors read it at several depths; length 1, float32 [pictures, E] on the CPU.

    Each picture goes alone: its vector does not depend on the others. Raises UserError for other media.
    """
    core = core_of(model)
    found = []
    for number, picture in enumerate(pictures):
        # the words are there for templates that want some; no vector is made of them
        shown = (Message("text", (picture, Part("text", "Picture"))),)
        units = reader.prompt(shown, f"picture {number}").units
        if has_one_projector(core):
            states = [run_tower(core, unit, device) for unit in units]
        else:
            states = encode_units(core, units, device, 1)
        flat = torch.cat([one.flatten(0, -2).float() for one in states])
        found.append(F.normalize(flat.mean(0), dim=0).cpu())
    return torch.stack(found)
