"""The evaluation of networks: metrics, comparisons with verdicts, and their plots."""
