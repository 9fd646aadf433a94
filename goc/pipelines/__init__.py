"""The caches in a diffusers pipeline: one line puts a method of goc/caching into a transformer that others wrote."""
