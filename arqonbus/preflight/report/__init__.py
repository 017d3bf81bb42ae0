"""The forms of a report: a tree for people, JSON, JUnit, SARIF for machines, HTML for a ticket. Pure."""
