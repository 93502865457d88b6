"""From output arrays to answers: one module a kind of answer. `edgekit.runtimes.interpret` chooses among them."""
