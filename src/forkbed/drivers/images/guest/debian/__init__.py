"""Files of the Debian image: units, network and ssh configuration."""
