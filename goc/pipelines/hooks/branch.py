"""On an attention or feed-forward module of a block: its output is the feature, or each tensor of its outputs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from goc.pipelines.forward_pass import Form, ForwardPass, versions
from goc.pipelines.hooks.carried import argument, arguments_of
from goc.pipelines.hooks.place import PlaceHook, tensors_of


class BranchHook(PlaceHook):
    """Each call of the module in a pass has features of its own: some are called for the image, then for the text."""

    def stand_in(self, under_way: ForwardPass, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if under_way.block != self.block:
            under_way.settle()
            under_way.block = self.block
        under_way.decide(lambda: argument(arguments_of(self.module)[0], 0, args, kwargs))
        self.key = under_way.enter(self.place)
        form = under_way.stream.forms.get(self.key)
        values = [] if form is None else [None if cell is None else under_way.value(cell) for cell in form.cells]
        if form is None or all(value is None for value in values):
            under_way.operations.begin_module()
            return None
        under_way.skipped(self.key)
        return tuple(values) if form.is_tuple else values[0]

    def keep(self, under_way: ForwardPass, output: Any) -> None:
        tensors = tensors_of(output)
        cells = under_way.new_cells(self.place, len(tensors))
        found = [(cell, tensor) for cell, tensor in zip(cells, tensors, strict=True) if isinstance(tensor, Tensor)]
        if all(cell is not None for cell, _ in found):  # else the module is computed in every step
            kept = [cell if isinstance(tensor, Tensor) else None for cell, tensor in zip(cells, tensors, strict=True)]
            under_way.stream.forms[self.key] = Form(tuple(kept), isinstance(output, tuple))
            for cell, tensor in found:
                (feature,) = under_way.kept((tensor,))
                if cell is not None and feature is not None:
                    under_way.pending.append((cell, feature, versions([feature])))
        under_way.done(self.key)
