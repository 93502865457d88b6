"""The search for the best artifact of a model on a board.

    space > search (converts, measures, cuts) > front > choice

`space` says what may be tried, `search` what to try next, `execute` tries it, `cache` keeps what was found. `tuner`
joins them.
"""
