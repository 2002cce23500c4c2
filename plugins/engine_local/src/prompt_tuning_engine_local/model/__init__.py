"""The frozen T5 with a prompt: network, parameters, loss, optimizer and decoding."""
