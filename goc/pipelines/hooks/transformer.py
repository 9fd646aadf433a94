"""On a transformer: tells the cache where each of its forward passes belongs."""

import contextlib
import functools
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from goc.pipelines.forward_pass import InPlaceError
from goc.pipelines.hooks import network
from goc.pipelines.hooks.carried import argument, arguments_of
from goc.pipelines.hooks.rows import Rows, RowsError, rows_of
from goc.pipelines.session import CachedTransformer, PipelineCache, PipelineError
from goc.pipelines.tokens import PlacesCache, generators_of, grid_of

TIMESTEP = ("timestep", "timesteps", "t")
CONTEXT = "cache_context"  # the method by which pipelines name their calls
DISPATCH = re.compile(r"torch/(_ops|overrides|utils/(flop_counter|_python_dispatch)|_higher_order_ops/\w+)\.py$")


class TransformerHook:
    """The transformer, cached inside of a pipeline's call.

    Args:
        cache: the pipeline's.
        cached: the transformer, with its `forward` as it is.
    """

    def __init__(self, cache: PipelineCache, cached: CachedTransformer) -> None:
        self.cache, self.cached, self.original = cache, cached, cached.transformer.forward
        known = arguments_of(cached.transformer)
        name = next((name for name in TIMESTEP if name in known), None)
        if name is None:
            kind = type(cached.transformer).__name__
            raise PipelineError(f"{kind}: its forward has no argument of the names {TIMESTEP}")
        self.name, self.position, self.arguments = name, known.index(name), known

    @torch.compiler.disable
    def locate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, str] | None:
        """Where the transformer's call belongs."""
        timestep = torch.as_tensor(argument(self.name, self.position, args, kwargs))
        return self.cache.locate(self.cached, float(timestep.max()))  # a video's known frames have time 0

    @torch.compiler.disable
    def rows(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rows | None:
        """The rows of a call for several samples; None where it is for one. Raises RowsError."""
        if self.cached.indivisible is not None:
            raise RowsError(self.cached.indivisible)
        return rows_of({**dict(zip(self.arguments, args, strict=False)), **kwargs}, self.cache.samples)

    @torch.compiler.disable
    def begin(self, at: tuple[int, str], sample: int | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The transformer is called; its output if all of it is skipped in this step, or None."""
        tensors = [value for value in tree_leaves((args, dict(kwargs))) if isinstance(value, Tensor)]
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        self.cache.begin(self.cached, *at, sample, shapes, tensors[0])
        under_way = self.cached.forward_pass
        return None if under_way is None or not under_way.of_network else network.stand_in(under_way)

    @torch.compiler.disable
    def show(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Show a new cache that selects tokens what it draws by, and where they lie."""
        under_way = self.cached.forward_pass
        if under_way is None or not under_way.fresh or not isinstance(under_way.stream.cache, PlacesCache):
            return
        rows = argument(self.arguments[0], 0, args, kwargs)
        if not self.cache.generators:  # also of a guided call's half, whose latents are the same
            self.cache.generators = generators_of(rows if isinstance(rows, list) else under_way.latents)
        under_way.stream.cache.draw_from(self.cache.generators)
        ids, shape = kwargs.get("img_ids"), under_way.latents.shape
        under_way.stream.cache.grid = functools.cache(functools.partial(grid_of, ids, shape))

    @torch.compiler.disable
    def end(self, output: Any, computed: bool) -> None:
        """The transformer's call is over."""
        under_way = self.cached.forward_pass
        if computed and under_way is not None and under_way.of_network:
            network.keep(under_way, output)
        self.cache.end(self.cached)

    @torch.compiler.disable
    def may_go_on(self, error: Exception) -> bool:
        """Whether a call that failed is made again: with copies, or, if it failed where torch counts, without that."""
        if isinstance(error, InPlaceError):
            return self.cache.copy_from_now_on(self.cached)
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return DISPATCH.search(frame.f_code.co_filename) is not None and self.cache.count_no_more(self.cached)

    @torch.compiler.disable
    def hand_over(self) -> None:
        """The cache takes what is left of the pass."""
        if self.cached.forward_pass is not None:
            self.cached.forward_pass.end()

    @torch.compiler.disable(recursive=False)
    def computed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the transformer gives; once more where counting, or what changed in place, was in its way."""
        while True:
            self.show(args, kwargs)
            try:
                output = self.original(*args, **kwargs)
                self.hand_over()
                return output
            except Exception as error:
                if not self.may_go_on(error):
                    raise

    @torch.compiler.disable(recursive=False)
    def one(self, at: tuple[int, str], sample: int | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the transformer gives in a step, for one sample or, None, for all; or what stands in for it."""
        output = stands_in = self.begin(at, sample, args, kwargs)
        if output is None:
            output = self.computed(args, kwargs)
        self.end(output, stands_in is None)
        return output

    @torch.compiler.disable(recursive=False)
    def each(self, at: tuple[int, str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The same for each sample in a call of its own; raises RowsError."""
        rows = self.rows(args, kwargs)
        if rows is None:
            return self.one(at, 0, args, kwargs)
        outputs = [self.one(at, sample, *rows.of(sample, (args, kwargs))) for sample in range(rows.samples)]
        try:
            return rows.together(outputs)
        except RowsError as error:
            self.cache.take_whole(self.cached, str(error))
            raise

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.cache.active:
            return self.original(*args, **kwargs)
        try:
            at = self.locate(args, kwargs)
            if at is None:
                return self.original(*args, **kwargs)
            if self.cache.per_sample:
                try:
                    return self.each(at, args, kwargs)
                except RowsError as error:
                    self.cache.decide_together(str(error))
            return self.one(at, None, args, kwargs)
        except BaseException:
            self.cache.forget()
            raise


def context_hook(cached: CachedTransformer) -> Callable[..., Any]:
    """`transformer.cache_context`, by which pipelines tell the calls of a step apart, as well for this cache."""
    original: Callable[..., contextlib.AbstractContextManager[Any]] = getattr(cached.transformer, CONTEXT)

    @contextlib.contextmanager
    def cache_context(name: str, **more: Any) -> Iterator[None]:
        before, cached.context = cached.context, name
        try:
            with original(name, **more):
                yield
        finally:
            cached.context = before

    return cache_context
