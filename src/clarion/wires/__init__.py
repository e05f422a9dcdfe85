"""Wires: each turns typed events into one protocol's frames. None knows another but `sse`, none touches a store."""
