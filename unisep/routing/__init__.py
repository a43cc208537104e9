"""Who answers: a pure function from parsed queries and the catalog of what is installed to a plan."""
