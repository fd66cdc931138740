"""What `"ENGINE": "headway.sharding.client.django_backend"` names: Django's PostgreSQL backend over the shards."""
