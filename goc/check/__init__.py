"""`goc check`: whether the project is right on a GPU, and how fast, beside peers and the roofline."""
