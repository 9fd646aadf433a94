"""The model in a checkpoint of somebody's training: which entry of the file it is, and what its names begin with.

DiT's train.py saves {"model", "ema", "opt", "args"}, Lightning {"state_dict": {"model.NAME": ...}}, others the one in
the other; DistributedDataParallel puts `module.` before the names, and torch.compile and FSDP words into them.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EMA_ENTRIES = ("ema", "model_ema", "ema_model")
ENTRIES = (*EMA_ENTRIES, "model", "state_dict", "model_state_dict")  # the first that holds a state dict is the model
DEEPEST = 3  # an entry of an entry of an entry
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
EMA_PREFIX = re.compile(r"(^|[._])ema[._]")
FROM_ZERO = re.compile(r"(adaLN_modulation\.1|final_layer\.linear)\.weight$")  # what DiT's training starts from zeros
LEARNT = 0.5  # an average that follows the training has about all of it

State = dict[str, Tensor]


def odd_kind(tensor: Tensor) -> str:
    """What keeps a tensor from being a weight, in a word or two; "" for a floating-point tensor with its values."""
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_meta:
        return "without values"
    return "" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Entry:
    """A state dict in a checkpoint.

    path: of the entries that lead to it, as "ema" or "model.state_dict"; "" for a file that is one itself. beside: the
    state dict that it is an average of, where it is an EMA and the file has both. unread: an EMA's entry that holds
    something, but no state dict.
    """

    state: State
    path: str = ""
    beside: State | None = None
    unread: str = ""


def is_state(content: Any) -> bool:
    """Whether it is a state dict: tensors by their names, and nothing else."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def find_entry(content: Any, names: Collection[str] = ENTRIES, depth: int = DEEPEST) -> Entry | None:
    """The state dict in what a checkpoint holds: an EMA before others; None: there is none."""
    if is_state(content):
        return Entry(dict(content))
    if not isinstance(content, Mapping) or depth == 0:
        return None
    for name in names:
        found = find_entry(content.get(name), depth=depth - 1)
        if found is not None:
            beside, unread = found.beside, found.unread
            if name in EMA_ENTRIES:
                trained = find_entry(content, [other for other in names if other not in EMA_ENTRIES], depth)
                beside = None if trained is None else trained.state
            else:
                unread = unread or next((average for average in EMA_ENTRIES if _holds_something(content, average)), "")
            return Entry(found.state, ".".join(filter(None, (name, found.path))), beside, unread)
    return None


def _holds_something(content: Mapping[str, Any], name: str) -> bool:
    part = content.get(name)
    return isinstance(part, Mapping | list | tuple) and len(part) > 0


def unwrapped(state: State) -> State:
    """The names without the words that torch.compile, FSDP and checkpointing put into them; raises ValueError."""
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        twice = next(name for name, count in Counter(WRAPPERS.sub("", name) for name in state).items() if count > 1)
        raise ValueError(f"holds {twice} twice, once with and once without the words of torch.compile or FSDP")
    return plain


def prefixes(state: State, expected: Collection[str]) -> list[str]:
    """What the names of a model that a state dict holds begin with, as "module." or "": all that have most of them."""
    found: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return [prefix for prefix, count in found.items() if 2 * count > len(expected)]


@dataclass(frozen=True)
class Model:
    """The model's tensors by its own names. where: what was taken, in words; "" for a file that holds nothing else.

    beside, unread: as in `Entry`. left_out: how many tensors of other names the same state dict has.
    """

    state: State
    where: str = ""
    beside: State | None = None
    left_out: int = 0
    unread: str = ""


def pick_model(entry: Entry, expected: Collection[str]) -> Model:
    """The tensors of the model with the expected names, without what stands before them; of several models the EMA.

    Raises ValueError if there are several, and not one EMA among them. Names that do not fit are left as they are.
    """
    state, where = unwrapped(entry.state), f'its entry "{entry.path}"' if entry.path else ""
    beside = None if entry.beside is None else unwrapped(entry.beside)
    there = prefixes(state, expected)
    if "" in there or not there:
        trained = None if beside is None else _under(beside, prefixes(beside, expected))
        return Model(state, where, trained, unread=entry.unread)
    averages = [prefix for prefix in there if EMA_PREFIX.search(prefix)]
    chosen = averages or there
    if len(chosen) > 1:
        raise ValueError(f"holds several models, under {', '.join(sorted(chosen))}: must hold one, or one EMA")
    (prefix,) = chosen
    others = [other for other in there if other not in averages]
    if averages and len(others) == 1:
        beside = _under(state, others)
    elif beside is not None:
        beside = _under(beside, prefixes(beside, expected))
    own = _under(state, [prefix])
    return Model(own, f"{where or 'what is'} under {prefix}*", beside, len(state) - len(own), entry.unread)


def _under(state: State, there: list[str]) -> State:
    """The tensors under the one prefix, without it; of several, none of them are told apart, and it is empty."""
    if len(there) != 1:
        return {}
    return {name.removeprefix(there[0]): tensor for name, tensor in state.items() if name.startswith(there[0])}


def learnt_share(average: State, trained: State) -> float | None:
    """How much of what a training has learnt its EMA has: 0 for one never updated, about 1 for one that follows.

    Seen in the layers that DiT starts from zeros, which the EMA of a training from scratch starts from as well: the
    projection of its weights on the trained ones. None: the trained ones have not left zero, or are not there. An EMA
    that began as a copy of trained weights (a fine-tuning) is near 1 even if it was never updated: no file tells.
    """
    both = [(average[name], trained[name]) for name in average if FROM_ZERO.search(name) and name in trained]
    pairs = [(a, b) for a, b in both if a.shape == b.shape and not odd_kind(a) and not odd_kind(b)]
    product, square = (
        sum(float((a.double() * b.double()).sum()) for a, b in those)
        for those in (pairs, [(b, b) for _, b in pairs])
    )  # fmt: skip
    return product / square if square > 0 and torch.isfinite(torch.tensor([product, square])).all() else None
