"""How good a model is: perplexity, zero-shot tasks, and how sure we are."""
