"""A method and a metric of one's own: `goc run method=deep_blocks metrics=[fid,contrast]`."""

from dataclasses import dataclass
from typing import Any

from goc.plugin import ConfigError, Method, Metric, ScheduleConfig, Situation, higher, method, metric, schedule


@schedule
@dataclass
class DeepBlocks(ScheduleConfig):
    """The deepest blocks in every odd step. share: of the blocks, in (0, 1]."""

    name: str = "deep_blocks"
    share: float = 0.5

    def follows_ratio(self) -> bool:
        return False  # its own settings decide what is cached

    def check(self, steps: int) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"schedule.share={self.share}: must be in (0, 1]")

    def mask(self, situation: Situation) -> Any:
        import torch

        mask = torch.zeros(situation.steps, situation.depth, 2, dtype=torch.bool)
        mask[1::2, situation.depth - round(self.share * situation.depth) :] = True
        return mask


method("deep_blocks", Method("deep_blocks", "taylor", "the deepest blocks in odd steps, by Taylor"), __name__)


def contrast(images: Any) -> Any:
    """The standard deviation of each image's pixels, uint8 [n, C, H, W] -> [n]."""
    return images.float().flatten(1).std(dim=1)


metric(
    "contrast",
    Metric((higher("contrast", "contrast", "contrast of the pixels"),), "contrast", score=f"{__name__}:contrast"),
    __name__,
)
