"""What a cache puts around a transformer: a hook on its call, and one on each module that may be cached."""
