"""Publish and subscribe across all workers.

In: channels, patterns and messages, as bytes, and subscribers, as `fastkv.pubsub.messages` has them. Out:
each message to each of them once, in one order for all. ``hub`` is what a worker has of it. Below it are
``subscriptions`` (who wants what here), ``delivery`` (messages on their way), ``herald`` (what the others are
told) and ``census`` (what they have told), ``wire`` (what stands in the ring) and ``ring`` (the memory that
the workers share). ``events`` tells of keys by a hub.
docs/concurrency.md has the contract.
"""
