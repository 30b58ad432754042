"""What is done with the Based language model: recall of associations, pretraining."""
