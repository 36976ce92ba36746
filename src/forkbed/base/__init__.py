"""What every other layer may use: errors, units and identifiers. Imports nothing of Forkbed."""
