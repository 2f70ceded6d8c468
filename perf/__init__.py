"""Measurements: what fastkv costs and keeps, beside others. Commands write figures to ``results``."""
