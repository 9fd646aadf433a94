"""Whether a feed-forward module can be given some of its tokens alone: it is asked."""

import torch
from torch import Tensor, nn

ROUNDINGS, LEAST = 10, 1e-4  # what two ways to compute a token may differ by: in units of its format, and at least


def not_token_wise(module: nn.Module) -> str:
    """Why a feed-forward module cannot be given some of its tokens alone; empty: it can.

    Two tokens of three, in another order, must give what they give among all three.
    """
    first = next((inner for inner in module.modules() if hasattr(inner, "in_features")), None)
    weight = getattr(first, "weight", None)
    if first is None or not isinstance(weight, Tensor):
        return "has no linear layer"
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    device = "cpu" if weight.is_meta else weight.device
    generator, some = torch.Generator().manual_seed(0), [2, 0]
    width = int(first.in_features)  # type: ignore[arg-type]  # torch types no attribute of other people's modules
    x = torch.randn(1, 3, width, generator=generator).to(device, dtype)
    try:
        with torch.no_grad():
            among, alone = module.forward(x), module.forward(x[:, some])
    except Exception as error:  # of code of others, which wants its tokens in another form
        return f"cannot be called with tokens alone: {type(error).__name__}"
    are_tensors = isinstance(among, Tensor) and isinstance(alone, Tensor)
    if not are_tensors or among.shape[:2] != x.shape[:2] or alone.shape != among[:, some].shape:
        return "does not give a value for each token"
    expected = among[:, some].float()
    bound = max(LEAST, ROUNDINGS * torch.finfo(dtype).eps) * expected.norm()
    return "" if (alone.float() - expected).norm() <= bound else "mixes its tokens, or knows their places"
