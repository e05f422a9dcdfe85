"""Behaviour over real sockets: the requirements manifest, and the tests that its entries name."""
