"""Doubles the shards of a database while it is written to: shard s splits into s and s + N, on its own server.

`Splitter` (splitter.py) builds the second halves beside the first ones. From then on triggers keep both in step, in the
transaction that writes, in both directions: whoever has the old map and whoever has the new one see and write the same
rows. So the map can change for all shards in one transaction, and nobody waits for anybody. When every client has had
the time to learn of it, the old places refuse the rows that left, which are then deleted there.
"""
