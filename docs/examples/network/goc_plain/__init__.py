"""A model with a network of its own: `goc run model=plain model.checkpoint=plain.pt`."""

from goc.plugin import Model, model

SETTINGS = {
    "name": "plain",
    "network": "goc_plain.network:Plain",  # loaded only where it runs
    "input_size": 8,
    "in_channels": 1,
    "num_classes": 10,
    "depth": 6,
    "checkpoint": "plain.pt",  # its state dict
    "extractor": "digits",
    "reference": "asset:digits/reference.safetensors",
}
model("plain", Model(SETTINGS), __name__)
