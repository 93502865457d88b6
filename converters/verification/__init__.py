"""What a verification is made of: answers of the source, what to ask, how far apart two answers are."""
