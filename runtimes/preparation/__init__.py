"""From things to arrays: one module a kind of thing. `edgekit.runtimes.preprocess` chooses among them."""
