"""The one driver that every study runs through."""
