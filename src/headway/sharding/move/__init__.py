"""Moves a shard to another server while it is written to, between two plain PostgreSQL servers.

`Mover` (mover.py) goes through the stages of `nouns.Stage` one by one and records each in the catalog, so that a move
that was killed anywhere goes on from there. Logical replication carries the rows; a fence of triggers holds writes off
for the few milliseconds in which the shard changes hands. Up to the stage `switched` a move can be given up and leaves
everything as it was; from there on it only goes forward.
"""
