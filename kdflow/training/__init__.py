"""Train one network: the loop, what it minimises, its optimisers, what the console shows."""
