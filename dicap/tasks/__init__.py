"""Tasks: which texts an item is scored against, what is right, the loss of an item, the measures of an evaluation."""
