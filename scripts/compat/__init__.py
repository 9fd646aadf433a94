"""What scripts/compatibility.py asks of caches in every transformer and pipeline of the installed diffusers."""
