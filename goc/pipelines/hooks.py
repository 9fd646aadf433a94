"""What a cache puts around a transformer's modules, with diffusers' own hooks: the model, its branches, its blocks."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from goc.pipelines.session import Inputs, PipelineCache, PipelineError, Span, Stream
from goc.pipelines.structure import OUTPUTS, StructureError, first_attention
from goc.system import torchvision  # noqa: F401  (first, as diffusers imports torchvision)

# isort: split
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.hooks import BaseState, StateManager

NAME = "goc_cache"
TIMESTEP = ("timestep", "timesteps", "t")
HIDDEN, ENCODER = 0, 1  # outputs of a place that is whole blocks


def arguments_of(module: nn.Module) -> list[str]:
    """Names of the arguments of a module's class's forward."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def argument(name: str, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An argument of a call by its name and position; None if it was not given."""
    return kwargs.get(name, args[position] if position < len(args) else None)


class Hook(ModelHook):
    """One of this project's."""

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the module does without it."""
        return cast(Callable[..., Any], self.fn_ref.original_forward)(*args, **kwargs)


def tensors_of(output: Any) -> tuple[Any, ...]:
    """What a module gave, as a tuple."""
    return output if isinstance(output, tuple) else (output,)


class TransformerHook(Hook):
    """On the transformer: tells the cache where each of its calls belongs.

    It is stateful so that diffusers tells it the names of cache contexts.
    """

    _is_stateful = True

    def __init__(self, cache: PipelineCache) -> None:
        super().__init__()
        self.cache = cache
        self.contexts = StateManager(BaseState)  # type: ignore[arg-type]  # it takes the class
        self.name, self.position = "", 0

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        names = arguments_of(module)
        found = [name for name in TIMESTEP if name in names]
        if not found:
            raise PipelineError(f"{type(module).__name__}: its forward has no argument of the names {TIMESTEP}")
        self.name, self.position = found[0], names.index(found[0])
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.contexts.reset()
        return module

    @torch.compiler.disable
    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The transformer is called."""
        try:
            name = self.contexts.context.name
        except ValueError:  # outside of any
            name = None
        timestep = torch.as_tensor(argument(self.name, self.position, args, kwargs))
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        # a video's known frames have time 0
        self.cache.begin(float(timestep.max()), name, shapes, tensors[0].device)

    @torch.compiler.disable
    def end(self) -> None:
        """The transformer's call is over."""
        self.cache.end()

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The transformer, cached inside of a pipeline's call."""
        if not self.cache.active:
            return self.original(*args, **kwargs)
        try:
            self.begin(args, kwargs)
            output = self.original(*args, **kwargs)
            self.end()
        except BaseException:
            self.cache.forget()
            raise
        return output


class PlaceHook(Hook):
    """On a module that may be cached: `stand_in` gives what it would have given, or `keep` takes what it gave."""

    def __init__(self, cache: PipelineCache, place: int, block: int, member: int = 0) -> None:
        super().__init__()
        self.cache, self.place, self.block = cache, place, block
        self.key = place, member  # the module, among those that the place has

    def stand_in(self, stream: Stream, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's output if it is cached now, or None."""
        raise NotImplementedError

    def keep(self, stream: Stream, output: Any) -> None:
        """The module was computed."""
        raise NotImplementedError

    @torch.compiler.disable
    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
        """Whether the cache works now, and the module's output if it is cached."""
        stream = self.cache.stream
        if stream is None:
            return False, None
        return True, self.stand_in(stream, args, kwargs)

    @torch.compiler.disable
    def after(self, output: Any) -> None:
        """The module was computed while the cache works."""
        assert self.cache.stream is not None
        self.keep(self.cache.stream, output)

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The module, or what stands in for it."""
        works, output = self.before(args, kwargs)
        if output is not None:
            return output
        output = self.original(*args, **kwargs)
        if works:
            self.after(output)
        return output


class BranchHook(PlaceHook):
    """On an attention or feed-forward module of a block: its output is the feature, or each tensor of its outputs."""

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.name = arguments_of(module)[0]
        return module

    def stand_in(self, stream: Stream, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if stream.pending_block != self.block:
            stream.settle()
            stream.pending_block = self.block
        stream.decide(lambda: argument(self.name, 0, args, kwargs))
        form = stream.forms.get(self.place, [])  # none yet: nothing is kept
        values = [
            stream.value(self.place, i) if given else None for i, given in enumerate([True] if form is None else form)
        ]
        if all(value is None for value in values):
            self.cache.operations.begin_module()
            return None
        self.cache.skipped(self.key)
        return values[0] if form is None else tuple(values)

    def keep(self, stream: Stream, output: Any) -> None:
        tensors = tensors_of(output)
        stream.forms[self.place] = [isinstance(t, Tensor) for t in tensors] if isinstance(output, tuple) else None
        for index, tensor in enumerate(tensors[:OUTPUTS]):
            if isinstance(tensor, Tensor):
                stream.pending.append((self.place, index, tensor))
        self.cache.done(self.key)


class BlockHook(PlaceHook):
    """On a block whose place is what it, or a list of blocks with it, adds to its inputs.

    Lists of which each one's inputs are the outputs of the one before are one span: all is kept at the first.

    member: its number in the list. last: whether it is the list's last. chained: whether spans go over several lists.
    """

    def __init__(
        self, cache: PipelineCache, place: int, block: int, member: int = 0, last: bool = True, chained: bool = False
    ) -> None:
        super().__init__(cache, place, block, member)
        self.first, self.last, self.chained = member == 0, last, chained
        self.order: tuple[int | None, ...] | None = None  # where the inputs are in its outputs; None: a tensor
        self.metadata: TransformerBlockMetadata | None = None
        self.names: list[str] = []
        self.kind = ""

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.names, self.kind, self.attention = arguments_of(module), type(module).__name__, first_attention(module)
        try:
            self.metadata = TransformerBlockRegistry.get(type(module))
        except ValueError:  # of none that diffusers has described
            self.metadata = None
        return module

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """The hidden states, and the encoder's if the block is given them."""
        described = self.metadata or TransformerBlockMetadata()
        hidden = described.hidden_states_argument_name
        if hidden not in self.names:
            hidden = self.names[0]
        values = [argument(hidden, self.names.index(hidden), args, kwargs)]
        encoder = described.encoder_hidden_states_argument_name
        if encoder in self.names:
            values.append(argument(encoder, self.names.index(encoder), args, kwargs))
        return tuple(values)

    def stand_in(self, stream: Stream, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream.settle()
        stream.decide(lambda: self.modulated_input(args, kwargs))
        given = self.inputs(args, kwargs)
        begins = self.first and self.place in stream.kept
        values = {i: stream.value(self.place, i) for i in sorted(stream.kept[self.place])} if begins else {}
        stream.skipping = any(value is not None for value in values.values()) if begins else stream.skipping
        if stream.skipping:
            self.cache.skipped(self.key)
            return self.arranged([plus(x, values.get(i)) for i, x in enumerate(given)])
        self.cache.operations.begin_module()
        stream.given = given
        if self.first:
            if self.chained and stream.span is not None and same(given, stream.span.outputs):
                stream.kept.pop(self.place, None)
            else:
                stream.close(self.cache.layout)
                stream.span = Span(self.place, given)
        return None

    def modulated_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """What the block gives its attention; nothing after that is computed."""

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise Reached(argument(arguments_of(module)[0], 0, args, kwargs))

        handle = self.attention.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.original(*args, **kwargs)
        except Reached as reached:
            return reached.value
        finally:
            handle.remove()
        raise PipelineError(f"{self.kind}: does not call its attention, whose input says whether a step is skipped")

    def keep(self, stream: Stream, output: Any) -> None:
        self.order = self.found_order(stream.given, output) if isinstance(output, tuple) else None
        assert stream.span is not None
        if self.last:
            outputs = tensors_of(output)
            at = {index: i for i, index in enumerate(self.order or (HIDDEN,)) if index is not None}
            stream.span.outputs = tuple(outputs[at[i]] if i in at else None for i in range(len(stream.given)))
            if not self.chained:
                stream.close(self.cache.layout)
        stream.given = ()
        self.cache.done(self.key)

    def found_order(self, given: Inputs, outputs: tuple[Any, ...]) -> tuple[int | None, ...]:
        """Which input each output goes on from: as diffusers describes the block, or by their shapes."""
        if self.metadata is not None:
            at = {
                self.metadata.return_hidden_states_index: HIDDEN,
                self.metadata.return_encoder_hidden_states_index: ENCODER,
            }
            return tuple(at.get(i) if output is not None else None for i, output in enumerate(outputs))
        shapes = [None if x is None else x.shape for x in given]
        order = tuple(None if x is None else shapes.index(x.shape) if x.shape in shapes else -1 for x in outputs)
        found = [index for index in order if index is not None]
        if -1 in found or len(set(found)) < len(found):
            raise StructureError(
                f"{self.kind}: its outputs {[tuple(x.shape) for x in outputs if x is not None]} cannot be told apart "
                f"by its inputs {[tuple(shape) for shape in shapes if shape is not None]}; use site='branch', and "
                "branches={'attn': [...], 'mlp': [...]} if it was"
            )
        return order

    def arranged(self, values: list[Any]) -> Any:
        """Values for the inputs as the block would have given them."""
        if self.order is None:
            return values[HIDDEN]
        return tuple(None if index is None else values[index] for index in self.order)


class Reached(Exception):  # noqa: N818  (not an error: it ends a block's work when enough is known)
    """Carries what a block gave its attention."""

    def __init__(self, value: Tensor) -> None:
        super().__init__("a block came to its attention")
        self.value = value


def plus(x: Tensor | None, added: Tensor | None) -> Tensor | None:
    """The sum, where there is one."""
    return x if x is None or added is None else x + added


def same(inputs: Inputs, outputs: Inputs) -> bool:
    """Whether a list of blocks is given just what the one before gave."""
    return len(inputs) == len(outputs) and all(a is b for a, b in zip(inputs, outputs, strict=True))


def hook(transformer: nn.Module, cache: PipelineCache) -> None:
    """Put a cache around a transformer's modules. Raises PipelineError or StructureError, and then changes nothing."""
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    try:
        registry.register_hook(TransformerHook(cache), NAME)
        for module, own in place_hooks(transformer, cache):
            HookRegistry.check_if_exists_or_initialize(module).register_hook(own, NAME)
    except BaseException:
        unhook(transformer)
        raise
    registry.invalidate_child_registries_cache()


def place_hooks(transformer: nn.Module, cache: PipelineCache) -> list[tuple[nn.Module, PlaceHook]]:
    """The hooks of a layout's places, and where they go."""
    modules, layout, hooks = dict(transformer.named_modules()), cache.layout, list[tuple[nn.Module, PlaceHook]]()
    for index, place in enumerate(layout.places):
        if not place.whole:
            hooks.append((modules[place.name], BranchHook(cache, index, place.block)))
            continue
        members = layout.lists[place.name] if layout.site == "stack" else [modules[place.name]]
        for number, block in enumerate(members):
            last, chained = number == len(members) - 1, layout.site == "stack"
            hooks.append((block, BlockHook(cache, index, place.block, number, last, chained)))
    return hooks


def is_hooked(transformer: nn.Module) -> bool:
    """Whether `hook` put a cache around it that was not taken away."""
    return HookRegistry.check_if_exists_or_initialize(transformer).get_hook(NAME) is not None


def unhook(transformer: nn.Module) -> None:
    """Take everything away that `hook` put around a transformer's modules, so that they are what they were.

    diffusers leaves an empty registry and each module's own forward on the object, which a compiled module would be
    compiled anew for.
    """
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    registry.remove_hook(NAME, recurse=True)
    registry.invalidate_child_registries_cache()
    for module in transformer.modules():
        own = vars(module)
        if "_diffusers_hook" in own and not own["_diffusers_hook"].hooks:
            del module._diffusers_hook
            if getattr(own.get("forward"), "__func__", None) is type(module).forward:
                del module.forward
