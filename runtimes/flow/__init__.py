"""Models at work: several at once, on streams, in children that are watched, under a supervisor. One noun a module."""
