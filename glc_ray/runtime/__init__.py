"""The Ray side: messages, dispatch, actors, the Ray Data graph; the only importer of Ray."""
