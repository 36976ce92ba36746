"""The order in which things happen: operations, worked off step by step; nothing here knows a tool."""
