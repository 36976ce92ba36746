"""The command line. Python looks for garbage seldom here: importing modules makes much that stays."""

import gc

gc.set_threshold(50_000)
