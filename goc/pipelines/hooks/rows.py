"""The rows of a transformer's call: which of its arguments have them, a sample's own call, and the outputs of all."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from goc.pipelines.structure import StructureError

PLAIN = (bool, int, float, str, NoneType, torch.dtype, torch.device)  # the same for every sample
POSITIONS = re.compile(r"(img|txt)_ids|rope|rotary|freqs")  # arguments that say where tokens are: [tokens, ...]


class RowsError(StructureError):
    """It cannot be told which rows of a call are whose."""


@dataclass(frozen=True)
class Rows:
    """The rows of a call: one for each sample, and where guidance is in the same batch, all again.

    listed: whether the latents are no tensor but a list with an entry for each row.
    """

    count: int
    samples: int
    listed: bool

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor's first dimension is the rows."""
        return tensor.ndim > 0 and len(tensor) == self.count

    def is_list(self, value: Any) -> bool:
        """Whether a value is a list with an entry for each row; not one of as many tensors that have the rows."""
        if not isinstance(value, list) or len(value) != self.count:
            return False
        return self.listed or not all(isinstance(entry, Tensor) and self.has(entry) for entry in value)

    @torch.compiler.disable
    def of(self, sample: int, arguments: Any) -> Any:
        """What a sample's own call is given: its rows, and all that has none."""
        rows = range(sample, self.count, self.samples)

        def rows_in(value: Any) -> Any:
            if self.is_list(value):
                return [value[row] for row in rows]
            if not isinstance(value, Tensor) or not self.has(value):
                return value
            parts = [value[row : row + 1] for row in rows]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return tree_map(rows_in, arguments, is_leaf=self.is_list)

    @torch.compiler.disable
    def together(self, outputs: Sequence[Any]) -> Any:
        """The output of the whole call by those of the samples' own; raises RowsError."""
        rows = self.count // self.samples

        def is_list(value: Any) -> bool:
            return self.listed and isinstance(value, list) and len(value) == rows

        def joined(*values: Any) -> Any:
            if all(is_list(value) for value in values):
                return [value[row] for row in range(rows) for value in values]
            if all(isinstance(x, Tensor) and x.shape[:1] == (rows,) and x.shape == values[0].shape for x in values):
                return torch.stack(values, dim=1).flatten(0, 1)
            if all(isinstance(value, PLAIN) and value == values[0] for value in values):
                return values[0]
            raise RowsError(f"what the transformer gives has a {type(values[0]).__name__} without a part for each")

        try:
            return tree_map(joined, *outputs, is_leaf=is_list)
        except ValueError as error:  # of another structure
            raise RowsError("samples have outputs of different structure") from error


def rows_of(arguments: Mapping[str, Any], samples: int | None) -> Rows | None:
    """The rows of a call with these arguments, its latents the first; None where it is for one sample.

    Raises RowsError, with what cannot be told.
    """
    latents = next((x for x in arguments.values() if isinstance(x, list) or (isinstance(x, Tensor) and x.ndim > 1)), [])
    count = len(latents)
    if count == 1 or samples == 1:
        return None
    if samples is None:
        raise RowsError("the pipeline does not say how many there are")
    if count % samples:
        raise RowsError(f"{count} rows are not of {samples} samples")
    rows = Rows(count, samples, isinstance(latents, list))
    for name, value in arguments.items():
        for leaf in tree_leaves(value, is_leaf=rows.is_list):
            if unclear(name, leaf, rows):
                shape = f" {list(leaf.shape)}" if isinstance(leaf, Tensor) else ""
                raise RowsError(f"{name} ({type(leaf).__name__}{shape}) may have a part for each, or may not")
    return rows


def unclear(name: str, leaf: Any, rows: Rows) -> bool:
    """Whether a value may have rows or not, by what it is and by its argument's name."""
    if rows.is_list(leaf):
        return not (rows.listed or repeated(leaf))
    if not isinstance(leaf, Tensor):
        return not isinstance(leaf, PLAIN)
    if rows.has(leaf):  # tokens, as many as rows
        return leaf.ndim <= 2 and POSITIONS.search(name) is not None
    return rows.samples in leaf.shape[:1] or (leaf.ndim > 2 and rows.count in leaf.shape[1:-1])


def repeated(values: list[Any]) -> bool:
    """Whether a list repeats what says the same of each row: a shape, say."""
    plain = all(isinstance(value, PLAIN) for value in tree_leaves(values))
    return plain and isinstance(values[0], list | tuple) and all(value == values[0] for value in values)
