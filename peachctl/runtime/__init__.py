"""All that exists in the workflow's own process. A script imports `literal`, `node`, `output` and `run` from here."""
