"""The images the package carries, with their licence and the script that packs them."""
