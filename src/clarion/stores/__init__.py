"""Stores: the ports (`protocols`) and the backends behind them, each opened by URL in `clarion.composition`."""
