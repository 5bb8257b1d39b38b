"""Images: their sources, their splits, how they are stored, and the noisy sets made from them."""
