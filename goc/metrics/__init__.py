"""Features of images, statistics of real ones, and the metrics that compare samples with them."""
