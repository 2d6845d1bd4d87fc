"""SPEX: the interactions that drive a model, found by ablation and sparse Walsh-Fourier transforms."""
