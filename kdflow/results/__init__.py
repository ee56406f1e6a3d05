"""The kinds of results that steps build on, a module each: how it is named, found and verified."""
