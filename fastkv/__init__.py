"""fastkv: an in-memory key-value cache over HTTP, served by several processes from one shared arena."""

__version__ = "0.1.0"
