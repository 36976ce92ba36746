"""Images on one host: built from recipes, imported, kept by content, named by channels."""
