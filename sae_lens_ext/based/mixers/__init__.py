"""What mixes tokens in a layer: short convolutions, linear attention and softmax attention."""
