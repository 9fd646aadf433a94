"""The model in a checkpoint of somebody's training: which entry of the file it is, and what its names begin with.

DiT's train.py saves {"model", "ema", "opt", "args"}, Lightning {"state_dict": {"model.NAME": ...}}, others the one in
the other; DistributedDataParallel puts `module.` before the names, and torch.compile and FSDP words into them.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

EMA_ENTRY = re.compile(  # ema, model_ema, ema_state_dict, ema_0.9999, netEMA, modelEma, emaModel
    r"(?:^|[._])(?i:ema)(?:s|_?\d+)?(?:[._]|$)|(?<=[a-z\d])E(?:MA|ma)(?![a-z])|(?:^|[._])ema(?=[A-Z])"
)
NOT_THE_MODEL = re.compile(
    r"^(opt|lr|sched|scaler|discriminator|loss|args|vae|rng|random|cuda_rng|torch_rng)|optim|sched(ul|$)|scaler",
    re.IGNORECASE,
)
ENTRIES = ("model", "state_dict", "model_state_dict")  # the first that holds a state dict is the model
DEEPEST = 3  # an entry of an entry of an entry
LISTED = 8  # entries that an error names
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
LIT_EMA = "model_ema."
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
    state dict that it is an average of, where it is an EMA and the file has both. unread: what may be an EMA,
    and was not taken.
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


def find_entry(content: Any, depth: int = DEEPEST) -> Entry | None:
    """The state dict in what a checkpoint holds: an EMA before others; None: there is none.

    Raises ValueError if there are several, and no telling which is the model.
    """
    if is_state(content):
        return Entry(dict(content))
    if not isinstance(content, Mapping) or depth == 0:
        return None
    averages: dict[str, Entry] = {}
    others: dict[str, Entry] = {}
    for name, part in content.items():
        if isinstance(name, str) and not NOT_THE_MODEL.search(name) and isinstance(part, Mapping):
            entry = find_entry(part, depth - 1)
            if entry is not None:
                (averages if EMA_ENTRY.search(name) else others)[name] = entry
    trained = _only(others, "state dicts", ENTRIES)
    if averages:
        chosen = _only(averages, "EMAs", ("ema",))
        assert chosen is not None
        name, entry = chosen
        return replace(entry, path=_joined(name, entry.path), beside=trained[1].state if trained else entry.beside)
    if trained is None:
        return None
    name, entry = trained
    untaken = (other for other in content if other != name and _may_be_average(other, content, entry.state, others))
    return replace(entry, path=_joined(name, entry.path), unread=entry.unread or next(untaken, ""))


def _joined(name: str, path: str) -> str:
    return ".".join(filter(None, (name, path)))


def _only(entries: Mapping[str, Entry], what: str, preferred: Sequence[str]) -> tuple[str, Entry] | None:
    """The entry to take of several: the first preferred one, else the only one; raises ValueError if that is open."""
    name = next((name for name in preferred if name in entries), None)
    if name is None and len(entries) > 1:
        raise ValueError(f"holds several {what}, in its entries {listed_entries(entries)}: must hold one")
    name = name or next(iter(entries), None)
    return None if name is None else (name, entries[name])


def listed_entries(content: Any) -> str:
    """The names of a checkpoint's entries, as far as there is room for them."""
    names = list(map(str, content)) if isinstance(content, Mapping) else []
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:LISTED])
    return shown + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _may_be_average(name: Any, content: Mapping[Any, Any], taken: State, others: Mapping[str, Entry]) -> bool:
    """Whether an entry that was not taken says that it is an EMA, or holds the weights of the same model again."""
    if not isinstance(name, str) or NOT_THE_MODEL.search(name):
        return False
    part = content[name]
    if "ema" in name.lower() and isinstance(part, Mapping | list | tuple) and len(part) > 0:
        return bool(EMA_ENTRY.search(name)) or _holds_tensors(part)
    return name in others and 2 * len(others[name].state.keys() & taken.keys()) > len(taken)


def _holds_tensors(part: Any) -> bool:
    inside = part.values() if isinstance(part, Mapping) else part
    return any(isinstance(value, Tensor) or (isinstance(value, Mapping) and _holds_tensors(value)) for value in inside)


def unwrapped(state: State) -> State:
    """The names without the words that torch.compile, FSDP and checkpointing put into them; raises ValueError."""
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        twice = next(name for name, count in Counter(WRAPPERS.sub("", name) for name in state).items() if count > 1)
        raise ValueError(f"holds {twice} twice, once with and once without the words of torch.compile or FSDP")
    return plain


def prefixes(state: State, expected: Collection[str]) -> list[str]:
    """What the names of a model that a state dict holds begin with, as "module." or "": all that have most of them."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return [prefix for prefix, count in counts.items() if 2 * count > len(expected)]


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
    averages = [prefix for prefix in there if EMA_ENTRY.search(prefix)]
    chosen = averages or there
    if len(chosen) > 1 and chosen != averages and "" in chosen:
        chosen = [""]
    if len(chosen) > 1:
        raise ValueError(f"holds several models, under {', '.join(sorted(chosen))}: must hold one, or one EMA")
    prefix = next(iter(chosen), "")
    bare = {name: tensor for name, tensor in state.items() if name in expected}
    weights = _under(state, [prefix]) if prefix else bare
    if not averages and there and (average := lit_ema(state, expected)):
        # it holds what is trained; buffers are in the trained model alone
        lacking = ", ".join([name for name in weights if name not in average][:LISTED])
        where = f"the EMA under {LIT_EMA}*{f', and {lacking} of the trained model,' if lacking else ''}"
        return Model({**weights, **average}, where, weights, len(state) - len(weights) - len(average))
    unread = entry.unread or ("" if averages else _odd_average(state, expected))
    if not prefix:
        trained = None if beside is None else _under(beside, prefixes(beside, expected))
        return Model(state, where, trained, unread=unread)
    others = [other for other in there if other not in averages]
    if averages and len(others) == 1:
        beside = _under(state, others) if others[0] else bare
    elif beside is not None:
        beside = _under(beside, prefixes(beside, expected))
    return Model(weights, f"{where or 'what is'} under {prefix}*", beside, len(state) - len(weights), unread)


def lit_ema(state: State, expected: Collection[str]) -> State:
    """The EMA that latent diffusion's LitEma keeps in a state dict, whose names have lost their dots; {}: none."""
    averaged = [name.removeprefix(LIT_EMA) for name in state if name.startswith(LIT_EMA)]
    plain = {name.replace(".", ""): name for name in expected}
    counts: Counter[str] = Counter()
    for name in averaged:
        for dotless in plain:
            if name.endswith(dotless):
                counts[name.removesuffix(dotless)] += 1
    if not counts:
        return {}
    prefix, count = counts.most_common(1)[0]
    if 2 * count <= len(expected):
        return {}
    taken = {name: f"{LIT_EMA}{prefix}{dotless}" for dotless, name in plain.items()}
    return {name: state[source] for name, source in taken.items() if source in state}


def _odd_average(state: State, expected: Collection[str]) -> str:
    """The first name in a state dict that says it is of an EMA, which was not taken; "": there is none."""
    return next((name for name in state if name not in expected and EMA_ENTRY.search(name)), "")


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
