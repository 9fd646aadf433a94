"""Which class a sample is of."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from generations import generation

from goc.config import compose_config, run_id, validate
from goc.models.dit import DiT
from goc.sampling.labels import given_labels
from goc.system.errors import ConfigError


def made(model: DiT, labels: tuple[int, ...], indices: range = range(6)) -> dict[str, torch.Tensor]:
    return replace(generation(model), labels=labels).make(indices)[0]


def test_a_sample_has_the_label_of_its_index_counted_round(tiny_dit: DiT) -> None:
    assert made(tiny_dit, (2, 0, 3))["labels"].tolist() == [2, 0, 3, 2, 0, 3]
    assert made(tiny_dit, (2, 0, 3), range(4, 5))["labels"].tolist() == [0]


def test_given_labels_change_nothing_else(tiny_dit: DiT) -> None:
    """The noise is the seed's alone, so that a sample given the label it would draw is the same to the bit."""
    drawn = made(tiny_dit, ())
    given = made(tiny_dit, tuple(drawn["labels"].tolist()))
    assert torch.equal(given["latents"], drawn["latents"])
    others = made(tiny_dit, tuple((label + 1) % tiny_dit.num_classes for label in drawn["labels"].tolist()))
    assert not torch.equal(others["latents"], drawn["latents"])


def test_balanced_labels_are_as_many_of_each() -> None:
    labels = given_labels("balanced", 1000)
    assert set(Counter(labels[i % len(labels)] for i in range(50_000)).values()) == {50}


def test_a_file_has_a_label_a_line(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\ufeff7\n\n 0\r\n9", encoding="utf-8")
    assert given_labels(str(tmp_path / "labels.txt"), 10) == (7, 0, 9)


@pytest.mark.parametrize(
    ("setting", "content", "message"),
    [
        (None, None, "class_labels=None: must be uniform, balanced, a list of labels, or a text file"),
        (3, None, "class_labels=3: must be uniform"),
        ([], None, r"class_labels=\[\]: has no label"),
        ([1, True], None, r"class_labels=\[1, True\]: must be"),
        ([9, 10], None, r"class_labels=\[9, 10\]: label 10 must be in \[0, 9\]"),
        ("absent.txt", None, r"class_labels=absent\.txt: no such file; must be uniform, .* a label a line$"),
        ("Balance", None, "class_labels=Balance: no such file; must be .*; did you mean balanced"),
        ("labels.txt", b"1\n\xff", "class_labels=.*: cannot be read"),
        ("labels.txt", b"1\ncat\n", "class_labels=.*: line 2 is 'cat', must be a label"),
        ("labels.txt", b"-1", "line 1 is '-1'"),
        ("labels.txt", b"\n\n", "has no label"),
    ],
)
def test_what_are_no_labels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Any, content: bytes | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        given_labels(setting, 10)


def test_labels_are_part_of_the_measurement() -> None:
    """Runs of other classes have folders of their own; the default's is what it was before it was a setting."""
    uniform, balanced, one = (
        compose_config([f"class_labels={value}", "num_samples=20"]) for value in ("uniform", "balanced", "[3]")
    )
    assert len({run_id(config) for config in (uniform, balanced, one)}) == 3
    assert run_id(uniform) == run_id(compose_config(["num_samples=20"]))
    validate(balanced)
    with pytest.raises(ConfigError, match="num_samples=25 must be a multiple of the 10 classes"):
        validate(compose_config(["class_labels=balanced", "num_samples=25"]))
    with pytest.raises(ConfigError, match=r"class_labels=\[0\]: must be uniform with model.objective=pipeline"):
        validate(compose_config(["model=pipeline", "model.pipeline=a/b", "prompts=y", "class_labels=[0]"]))
