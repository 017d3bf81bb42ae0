"""Report formats: a tree for people; JSON, JUnit and SARIF for machines; HTML for tickets. Pure."""
