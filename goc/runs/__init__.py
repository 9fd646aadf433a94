"""A run: its files, what is loaded from them, what it makes, measures and leaves."""
