"""goc check's pipeline says what is left of the sampler's rate."""

import pandas as pd

from goc.check import pipeline


def test_the_whole_is_said_beside_the_sampler() -> None:
    rows = [("sampler", 40.0, 0.3), ("one after the other", 25.0, 0.7), ("overlapped", 33.0, 0.5)]
    said = pipeline.said(pd.DataFrame(rows, columns=["part", "images_per_s", "hours"]), pipeline.FULL)
    assert "the sampler makes 40 images/s" in said
    assert "one after the other 25, overlapped 33. 50,000 images and all metrics take 0.5 hours." in said
