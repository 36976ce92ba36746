"""What the engine needs of the world, as Protocols. Every one has a real and a simulated driver.

All calls are synchronous and may block; all raise `OperationalError` and nothing else for reasons outside
the program. "No answer" is kind UNREACHABLE and never means "gone".
"""
