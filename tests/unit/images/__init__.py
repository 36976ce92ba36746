"""Images without a machine to run on."""
