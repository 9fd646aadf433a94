"""The commands: `goc run`, `goc report`, ...; each is loaded when it is called."""
