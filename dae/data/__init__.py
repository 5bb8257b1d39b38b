"""Images: where they come from, how they are split and stored, and the noisy sets made of them."""
