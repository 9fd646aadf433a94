"""Problems the user can solve. Their text is one line: the key, its value, and what is allowed or what to do."""


class GocError(Exception):
    """Ends a run with its text on one line and exit code 1; whatever was already made stays."""


class ConfigError(GocError):
    """A setting, or a combination of settings, that cannot be run."""
