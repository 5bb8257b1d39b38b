"""How good a model is: metrics, scores, classical baselines, robustness, and the figures and tables of them."""
