"""Publish and subscribe across all workers.

In: channels, patterns and messages, as bytes, and subscribers, as `fastkv.pubsub.messages` has them. Out:
each message to each of them once, in one order for all. ``hub`` is what a worker has of it. Below it are
``subscriptions`` (who wants what here), ``delivery`` (messages on their way), ``census`` (how many there are
elsewhere), ``wire`` (what stands in the ring) and ``ring`` (the memory that the workers share).
docs/concurrency.md has the contract.
"""
