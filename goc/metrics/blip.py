"""What BLIP says of an image: whether it matches its prompt, by looking at both together."""

from typing import Any

from torch import Tensor

from goc.metrics.scorers import Scorer


class BlipMatching(Scorer):
    """The probability that an image and its text match, in [0, 1], by BLIP's matching head (arXiv 2201.12086).

    Unlike CLIP's embeddings, which never meet, its text encoder attends to the image's patches.
    """

    setting = "blip"
    classes = ("BlipForImageTextRetrieval", "BlipProcessor")

    def scores(self, given: Any) -> Tensor:
        # part by part, as the whole makes the patches' mask on the CPU
        patches = self.network.vision_model(pixel_values=given["pixel_values"]).last_hidden_state
        text = self.network.text_encoder(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], encoder_hidden_states=patches
        )
        return self.network.itm_head(text.last_hidden_state[:, 0]).softmax(dim=-1)[:, 1]
