"""The hub: from the log to every subscriber. It knows typed events only; framing stays in the wires."""
