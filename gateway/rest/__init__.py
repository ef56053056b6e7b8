"""REST/JSON for cape.v1: routes come from the google.api.http annotations of the protos."""
