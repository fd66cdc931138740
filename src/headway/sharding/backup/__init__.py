"""Backups of a database over all its servers, and how they are brought back.

A backup is a folder: one dump a shard, one of the reference tables, and `manifest.json`, which is written last. It is
taken from one snapshot a server, all of one cut (`cut`), while the app works (`take`). A restore (`restore`) puts what
the shards hold aside, fills new ones, and lets the app in when all are whole.
"""
