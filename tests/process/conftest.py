"""The application, for the tests that are about it: those in tests/unit have none of these."""

from application import run_apart, run_here, run_py, study, study_copy

__all__ = ["run_apart", "run_here", "run_py", "study", "study_copy"]
