"""The number formats of settings, by the names that users type. Known without loading torch."""

# the format of matrix products and of what they give, as an attribute of torch; None: float32
PRECISIONS: dict[str, str | None] = {"fp32": None, "tf32": None, "bf16": "bfloat16", "fp16": "float16"}
# what a predictor keeps its values in
HELD_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn"}
SCALED = ("fp8",)  # of these, what has a scale beside its values

LARGEST_WEIGHT = 65504.0  # of a feature: fp16 has no larger number
