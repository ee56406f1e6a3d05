"""What a network is worth: metrics, comparisons with verdicts, and their plots."""
