"""Images, purely: what a recipe is, how an image is named, which moves names make, which foreign files are refused."""
