"""What CLIP says of an image: how well it fits its prompt, and how good a photo it is."""

from typing import Any

import torch
from torch import Tensor

from goc.metrics.scorers import Scorer

QUALITY = ["Good photo.", "Bad photo."]


class ClipScore(Scorer):
    """100 max(cos(image, text), 0) of CLIP's embeddings, for each image and its own text (arXiv 2104.08718)."""

    setting = "clip"
    classes = ("CLIPModel", "CLIPProcessor")

    def scores(self, given: Any) -> Tensor:
        seen = self.network(**given)
        cosines = torch.cosine_similarity(seen.image_embeds.float(), seen.text_embeds.float())
        return 100 * cosines.clamp(min=0)


class ClipIqa(ClipScore):
    """CLIP-IQA (Wang et al., arXiv 2207.12396): how much more an image is a good photo than a bad one, in [0, 1].

    The softmax of 100 cos(image, text) over the two texts that the authors and torchmetrics take for quality; prompts
    have no say. As torchmetrics does with a CLIP of transformers (1.9.0 itself does not run with transformers 5); the
    authors' network leaves out the positions of the image's patches.
    """

    def prepared(self, images: Tensor, texts: list[str]) -> Any:
        return super().prepared(images, QUALITY)

    def scores(self, given: Any) -> Tensor:
        seen = self.network(**given)
        cosines = torch.cosine_similarity(seen.image_embeds[:, None].float(), seen.text_embeds[None].float(), dim=-1)
        return (100 * cosines).softmax(dim=-1)[:, 0]
