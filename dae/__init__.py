"""Convolutional denoising autoencoders: noise, models, training, scoring and the gate that promotes a model."""
