"""The Pass protocol, pipeline text, registry, runner and its instruments."""
