"""The images in the package, with their licence and the script that packs them."""
