"""The report's figures. Each is a row of small panels, so that a phone shows them one under the other."""
