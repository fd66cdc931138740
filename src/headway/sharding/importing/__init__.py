"""Brings the rows of one plain PostgreSQL into the shards of a sharded database, while the app writes on.

The source's tables are followed by logical replication into tables of the same name on every server of the shards,
where nobody but Headway gets at them. From there triggers carry each change into the shard that its key belongs to.
"""
