"""Trainings that methods need: weights of predictor=learned, routers of Learning-to-Cache."""
