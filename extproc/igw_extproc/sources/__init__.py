"""Where the datastore's objects come from: files, in standalone mode; one module for each origin."""
