"""The application, for the tests that are about it: those in tests/unit have none of these."""

from application import own_study, run_apart, run_here, run_py, study

__all__ = ["own_study", "run_apart", "run_here", "run_py", "study"]
