"""The largest values of settings: beyond them a run takes all memory, never ends, or is refused elsewhere."""

MOST_SAMPLES = 10_000_000  # 200 times the protocol's
LARGEST_SHAPE = {"input_size": 16384, "patch_size": 16384, "in_channels": 65536, "hidden_size": 262144,
                 "depth": 4096, "num_heads": 4096, "num_classes": 10_000_000}  # fmt: skip
MOST_REPEATS = 10_000
MOST_THREADS = 256
LARGEST_SEED = 2**63 - 1  # of torch's generators
LONGEST_S = 1e8  # three years
LONGEST_WANDB_NAME = 128
LONGEST_STUDY = 120  # as NAME-results and NAME summary are names too
NOT_IN_WANDB_NAMES = "/\\#?%:"
